#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace llc {

// A socket that is closed when it goes out of scope.
class tcp_socket {
  public:
    explicit tcp_socket(int fd = -1) : fd_(fd) {}
    tcp_socket(tcp_socket && other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    tcp_socket & operator=(tcp_socket && other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~tcp_socket();

    int  fd() const { return fd_; }
    bool open() const { return fd_ >= 0; }

    // Throws std::runtime_error with the reason.
    static tcp_socket connect(const std::string & host, const std::string & port, int timeout_ms);
    // A listening socket on a free port of the loopback interface.
    static tcp_socket listen_here(uint16_t & port);
    tcp_socket        accept() const;

    void set_timeout(int timeout_ms) const; // of a read or a write; 0 for none
    bool send(const void * data, size_t size) const;
    bool receive(void * data, size_t size) const;
    void shut() const; // whoever reads from it or writes to it stops

  private:
    int fd_;
};

} // namespace llc
