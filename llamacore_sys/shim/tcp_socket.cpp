#include "tcp_socket.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

#ifdef _WIN32

// Winsock is another interface; nobody has tried this there.
namespace llc {

tcp_socket::~tcp_socket() = default;
tcp_socket tcp_socket::connect(const std::string &, const std::string &, int) {
    throw std::runtime_error("this library reaches no RPC servers on Windows");
}
tcp_socket tcp_socket::listen_here(uint16_t &) { throw std::runtime_error("no sockets on Windows"); }
tcp_socket tcp_socket::accept() const { return tcp_socket(); }
void tcp_socket::set_timeout(int) const {}
bool tcp_socket::send(const void *, size_t) const { return false; }
bool tcp_socket::receive(void *, size_t) const { return false; }
void tcp_socket::shut() const {}

} // namespace llc

#else

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#    define MSG_NOSIGNAL 0 // macOS has SO_NOSIGPIPE instead
#endif

namespace llc {

namespace {

// A machine that is gone without a word is noticed after about half a minute.
constexpr int KEEPALIVE_IDLE_S = 15;
constexpr int KEEPALIVE_EACH_S = 5;
constexpr int KEEPALIVE_COUNT  = 3;

// Of what is sent to a listening socket: what waits there cannot be taken back.
constexpr int RECEIVE_BYTES = 128 * 1024;

void set(int fd, int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));
}

void prepare(int fd) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
#ifdef SO_NOSIGPIPE
    set(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
#ifdef TCP_KEEPIDLE
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EACH_S);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT);
#endif
#ifdef TCP_USER_TIMEOUT
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (KEEPALIVE_IDLE_S + KEEPALIVE_EACH_S * KEEPALIVE_COUNT) * 1000);
#endif
}

// Waits for a connection that was begun; returns an errno.
int finish_connecting(int fd, int timeout_ms) {
    pollfd    wanted{fd, POLLOUT, 0};
    const int ready = poll(&wanted, 1, timeout_ms);
    if (ready <= 0) {
        return ready == 0 ? ETIMEDOUT : errno;
    }
    int       error  = 0;
    socklen_t length = sizeof(error);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

} // namespace

tcp_socket::~tcp_socket() {
    if (fd_ >= 0) {
        ::close(fd_);
    }
}

tcp_socket tcp_socket::connect(const std::string & host, const std::string & port, int timeout_ms) {
    addrinfo   wanted{};
    addrinfo * found  = nullptr;
    wanted.ai_socktype = SOCK_STREAM;
    const int code = getaddrinfo(host.c_str(), port.c_str(), &wanted, &found);
    if (code != 0) {
        throw std::runtime_error("there is no host of that name (" + std::string(gai_strerror(code)) + ")");
    }
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, freeaddrinfo);
    int error = EADDRNOTAVAIL;
    for (const addrinfo * each = found; each != nullptr; each = each->ai_next) {
        tcp_socket made(::socket(each->ai_family, each->ai_socktype, each->ai_protocol));
        if (!made.open()) {
            error = errno;
            continue;
        }
        prepare(made.fd());
        const int flags = fcntl(made.fd(), F_GETFL);
        fcntl(made.fd(), F_SETFL, flags | O_NONBLOCK);
        error = ::connect(made.fd(), each->ai_addr, each->ai_addrlen) == 0 ? 0 : errno;
        if (error == EINPROGRESS || error == EINTR) {
            error = finish_connecting(made.fd(), timeout_ms);
        }
        if (error == 0) {
            fcntl(made.fd(), F_SETFL, flags);
            return made;
        }
    }
    throw std::runtime_error("no connection: " + std::string(std::strerror(error)));
}

tcp_socket tcp_socket::listen_here(uint16_t & port) {
    tcp_socket  made(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    socklen_t   length = sizeof(address);
    address.sin_family      = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    set(made.fd(), SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES);
    if (!made.open() || ::bind(made.fd(), reinterpret_cast<sockaddr *>(&address), length) != 0 ||
        ::listen(made.fd(), 4) != 0 ||
        getsockname(made.fd(), reinterpret_cast<sockaddr *>(&address), &length) != 0) {
        throw std::runtime_error("no port of the loopback interface can be had: " + std::string(std::strerror(errno)));
    }
    fcntl(made.fd(), F_SETFD, FD_CLOEXEC);
    port = ntohs(address.sin_port);
    return made;
}

tcp_socket tcp_socket::accept() const {
    tcp_socket made(::accept(fd_, nullptr, nullptr));
    if (made.open()) {
        prepare(made.fd());
    } else if (errno == EMFILE || errno == ENFILE) {
        poll(nullptr, 0, 100); // until a file is closed
    }
    return made;
}

void tcp_socket::set_timeout(int timeout_ms) const {
    const timeval limit{timeout_ms / 1000, (timeout_ms % 1000) * 1000};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

bool tcp_socket::send(const void * data, size_t size) const {
    const char * next = static_cast<const char *>(data);
    while (size > 0) {
        const ssize_t n = ::send(fd_, next, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        next += n;
        size -= static_cast<size_t>(n);
    }
    return true;
}

bool tcp_socket::receive(void * data, size_t size) const {
    char * next = static_cast<char *>(data);
    while (size > 0) {
        const ssize_t n = ::recv(fd_, next, size, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        next += n;
        size -= static_cast<size_t>(n);
    }
    return true;
}

void tcp_socket::shut() const {
    if (fd_ >= 0) {
        ::shutdown(fd_, SHUT_RDWR);
    }
}

} // namespace llc

#endif
