#include "rpc_relay.h"

#include "ggml-rpc.h"
#include "guard.h"

#include <algorithm>
#include <cstring>
#include <thread>

namespace llc {

namespace {

// The protocol of upstream's ggml-rpc.cpp, which keeps it to itself.
static_assert(RPC_PROTO_MAJOR_VERSION == 7 && RPC_PROTO_MINOR_VERSION == 0, "read the protocol again");

enum command : uint8_t {
    ALLOC_BUFFER, GET_ALIGNMENT, GET_MAX_SIZE, BUFFER_GET_BASE, FREE_BUFFER, BUFFER_CLEAR, SET_TENSOR, SET_TENSOR_HASH,
    GET_TENSOR, COPY_TENSOR, GRAPH_COMPUTE, GET_DEVICE_MEMORY, INIT_TENSOR, GET_ALLOC_SIZE, HELLO, DEVICE_COUNT,
    GRAPH_RECOMPUTE, MEMSET_TENSOR, N_COMMANDS,
};

constexpr size_t   CAPABILITIES  = 24;        // of a connection, for RDMA: all zero here
constexpr size_t   HELLO_REPLY   = 4 + CAPABILITIES;
constexpr size_t   HEADER        = 1 + 8;     // of a request: command and size
constexpr size_t   CHUNK         = 256 * 1024;
constexpr uint64_t MAX_DEVICES   = 64;        // of one server
constexpr uint64_t MAX_ALIGNMENT = 1 << 21;
constexpr uint64_t SOME_ADDRESS  = 1 << 30;   // of a buffer that is not there; nobody reads from it

// Bytes of the answer to a request, 0 for none.
uint64_t reply_size(uint8_t command, const std::vector<uint8_t> & payload) {
    switch (command) {
        case ALLOC_BUFFER:
        case GET_DEVICE_MEMORY: return 16;
        case GET_ALIGNMENT:
        case GET_MAX_SIZE:
        case BUFFER_GET_BASE:
        case GET_ALLOC_SIZE:    return 8;
        case SET_TENSOR_HASH:
        case COPY_TENSOR:       return 1;
        case DEVICE_COUNT:      return 4;
        case GET_TENSOR: {
            uint64_t size = 0; // the last field of the request
            if (payload.size() >= sizeof(size)) {
                std::memcpy(&size, payload.data() + payload.size() - sizeof(size), sizeof(size));
            }
            return size;
        }
        default: return 0;
    }
}

bool has_reply(uint8_t command) {
    switch (command) {
        case FREE_BUFFER: case BUFFER_CLEAR: case SET_TENSOR: case GRAPH_COMPUTE: case INIT_TENSOR:
        case GRAPH_RECOMPUTE: case MEMSET_TENSOR:
            return false;
        default:
            return true;
    }
}

constexpr const char * CLOSED = "it closed the connection";

uint64_t number_at(const std::vector<uint8_t> & bytes, size_t offset) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + offset, std::min(sizeof(value), bytes.size() - offset));
    return value;
}

// What is wrong with an answer that upstream would rely on, or nullptr.
const char * nonsense(uint8_t command, const std::vector<uint8_t> & payload, const std::vector<uint8_t> & answer) {
    if (command == BUFFER_GET_BASE && number_at(answer, 0) == 0) {
        return "it says that a buffer lies at address 0";
    }
    if (command == ALLOC_BUFFER && payload.size() == 12 && number_at(answer, 0) != 0 &&
        number_at(answer, 8) < number_at(payload, 4)) {
        return "it gave a smaller buffer than was asked for";
    }
    return nullptr;
}

// One request with a short answer, outside of a relay; throws when the server does not keep to the protocol.
std::vector<uint8_t> ask(
        const tcp_socket & server, uint8_t command, const std::vector<uint8_t> & payload, size_t reply) {
    std::vector<uint8_t> request(HEADER + payload.size());
    const uint64_t       size = payload.size();
    request[0] = command;
    std::memcpy(&request[1], &size, sizeof(size));
    std::copy(payload.begin(), payload.end(), request.begin() + HEADER);
    uint64_t             answered = 0;
    std::vector<uint8_t> answer(reply);
    if (!server.send(request.data(), request.size()) || !server.receive(&answered, sizeof(answered))) {
        throw std::runtime_error("it does not answer; a server serves one program at a time, and only programs that "
                                 "speak its version of the protocol");
    }
    if (answered != reply || !server.receive(answer.data(), reply)) {
        throw std::runtime_error("what answers there is no RPC server of this protocol");
    }
    return answer;
}

std::vector<uint8_t> device_number(uint32_t device) {
    std::vector<uint8_t> payload(sizeof(device));
    std::memcpy(payload.data(), &device, sizeof(device));
    return payload;
}

} // namespace

rpc_relay::rpc_relay(std::string host, std::string port, int timeout_ms)
    : host_(std::move(host)), port_(std::move(port)),
      endpoint_((host_.find(':') == std::string::npos ? host_ : "[" + host_ + "]") + ":" + port_),
      timeout_ms_(timeout_ms) {}

std::shared_ptr<rpc_relay> rpc_relay::start(const std::string & host, const std::string & port, int timeout_ms) {
    std::shared_ptr<rpc_relay> made(new rpc_relay(host, port, timeout_ms));
    made->connect_and_check(made->devices_);
    uint16_t number  = 0;
    made->listening_ = tcp_socket::listen_here(number);
    made->local_     = "127.0.0.1:" + std::to_string(number);
    std::thread([made] { made->run(); }).detach();
    return made;
}

void rpc_relay::lose(const std::string & reason) {
    const char * none = nullptr;
    char *       text = new char[reason.size() + 1]; // kept: whoever asks may read it for as long as the process lives
    std::memcpy(text, reason.c_str(), reason.size() + 1);
    if (!lost_.compare_exchange_strong(none, text)) {
        delete[] text;
    }
    std::lock_guard<std::mutex> lock(server_mutex_);
    server_.shut();
}

void rpc_relay::ask_again() {
    {
        std::lock_guard<std::mutex> lock(server_mutex_);
        if (server_.open()) {
            return; // it is in use, and would not answer a second connection
        }
    }
    std::vector<rpc_device_facts> now;
    connect_and_check(now);
    if (now != devices_) {
        lose("its devices are others than before");
        throw std::runtime_error(lost());
    }
}

tcp_socket rpc_relay::connect_and_check(std::vector<rpc_device_facts> & devices) const {
    auto server = tcp_socket::connect(host_, port_, timeout_ms_);
    server.set_timeout(timeout_ms_);
    const auto hello = ask(server, HELLO, std::vector<uint8_t>(CAPABILITIES), HELLO_REPLY);
    if (hello[0] != RPC_PROTO_MAJOR_VERSION || hello[1] > RPC_PROTO_MINOR_VERSION) {
        throw std::runtime_error("it speaks version " + std::to_string(hello[0]) + "." + std::to_string(hello[1]) +
                                 " of the protocol, this library speaks " + std::to_string(RPC_PROTO_MAJOR_VERSION) +
                                 "." + std::to_string(RPC_PROTO_MINOR_VERSION));
    }
    const uint64_t count = number_at(ask(server, DEVICE_COUNT, {}, 4), 0);
    if (count < 1 || count > MAX_DEVICES) {
        throw std::runtime_error("it says that it has " + std::to_string(count) + " devices");
    }
    devices.clear();
    for (uint32_t i = 0; i < count; ++i) {
        const uint64_t alignment = number_at(ask(server, GET_ALIGNMENT, device_number(i), 8), 0);
        const uint64_t max_size  = number_at(ask(server, GET_MAX_SIZE, device_number(i), 8), 0);
        if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > MAX_ALIGNMENT || max_size == 0) {
            throw std::runtime_error("it says of device " + std::to_string(i) + " what cannot be: an alignment of " +
                                     std::to_string(alignment) + ", buffers of " + std::to_string(max_size) + " bytes");
        }
        devices.push_back({alignment, max_size});
    }
    server.set_timeout(0); // a device may compute for long; the system tells when its machine is gone
    return server;
}

void rpc_relay::run() {
    for (;;) {
        const auto client = listening_.accept(); // upstream has one connection to an endpoint
        if (client.open()) {
            try {
                serve(client);
            } catch (const std::exception & e) {
                lose(e.what());
            }
        }
        std::lock_guard<std::mutex> lock(server_mutex_);
        server_ = tcp_socket();
    }
}

void rpc_relay::serve(const tcp_socket & client) {
    uint8_t  command = 0;
    uint64_t size    = 0;
    while (client.receive(&command, 1) && client.receive(&size, sizeof(size))) {
        if (command >= N_COMMANDS || !relay(client, command, size)) {
            return;
        }
    }
}

// Whether the server can be sent to. It is connected to with the first request that needs it.
bool rpc_relay::reach_server() {
    if (lost() == nullptr && !server_.open()) {
        try {
            std::vector<rpc_device_facts> now;
            auto                          server = connect_and_check(now);
            if (now != devices_) {
                throw std::runtime_error("its devices are others than before");
            }
            std::lock_guard<std::mutex> lock(server_mutex_);
            server_       = std::move(server);
            computing_on_ = false;
        } catch (const std::exception & e) {
            lose(e.what());
        }
    }
    return lost() == nullptr;
}

// What can be said without the server, and what is said once it is lost.
bool rpc_relay::answer_alone(
        const tcp_socket & client, uint8_t command, const std::vector<uint8_t> & payload) const {
    const uint64_t       size = command == HELLO ? HELLO_REPLY : reply_size(command, payload);
    std::vector<uint8_t> answer(std::min<uint64_t>(size, CHUNK));
    const auto           say = [&](uint64_t value) {
        std::memcpy(answer.data(), &value, std::min(sizeof(value), answer.size()));
    };
    const uint64_t asked  = payload.size() == 4 ? number_at(payload, 0) : 0;
    const auto &   device = devices_[std::min<uint64_t>(asked, devices_.size() - 1)];
    switch (command) {
        case HELLO:           answer[0] = RPC_PROTO_MAJOR_VERSION; answer[1] = RPC_PROTO_MINOR_VERSION; break;
        case DEVICE_COUNT:    say(devices_.size()); break;
        case GET_ALIGNMENT:   say(device.alignment); break;
        case GET_MAX_SIZE:    say(device.max_size); break;
        case BUFFER_GET_BASE: say(SOME_ADDRESS); break;
        case SET_TENSOR_HASH: say(1); break; // "that data is here already": it is not sent then
        default: break;
    }
    if (!client.send(&size, sizeof(size))) {
        return false;
    }
    for (uint64_t sent = 0; sent < size; sent += answer.size()) {
        if (!client.send(answer.data(), std::min<uint64_t>(answer.size(), size - sent))) {
            return false;
        }
    }
    return true;
}

// A graph is sent without waiting for its end, and upstream would send a whole prompt ahead, which nothing could cancel
// any more. So each graph is followed by a question, whose answer is waited for before the next one.
bool rpc_relay::ask_for_end_of_graph() {
    uint8_t        request[HEADER + sizeof(uint32_t)] = {GET_ALIGNMENT};
    const uint64_t size                               = sizeof(uint32_t); // of the number of a device: 0
    std::memcpy(request + 1, &size, sizeof(size));
    computing_on_ = server_.send(request, sizeof(request));
    return computing_on_;
}

bool rpc_relay::await_end_of_graph() {
    uint64_t answer[2] = {8, 0}; // its size, and what it says
    if (computing_on_ && (!server_.receive(answer, sizeof(answer)) || answer[0] != sizeof(uint64_t))) {
        lose(CLOSED);
        return false;
    }
    computing_on_ = false;
    return true;
}

// The server's answer; false when upstream's side has ended.
bool rpc_relay::pass_answer(const tcp_socket & client, uint8_t command, const std::vector<uint8_t> & payload) {
    const uint64_t       size     = reply_size(command, payload);
    uint64_t             answered = 0;
    std::vector<uint8_t> answer(std::min<uint64_t>(size, CHUNK));
    if (!await_end_of_graph() || !server_.receive(&answered, sizeof(answered))) {
        lose(CLOSED);
        return answer_alone(client, command, payload);
    }
    if (answered != size) {
        lose("it sent an answer of another size than the protocol has");
        return answer_alone(client, command, payload);
    }
    if (command != GET_TENSOR) { // short, and looked at before it is passed on
        const char * wrong = !server_.receive(answer.data(), size) ? CLOSED : nonsense(command, payload, answer);
        if (wrong != nullptr) {
            lose(wrong);
            return answer_alone(client, command, payload);
        }
        return client.send(&size, sizeof(size)) && client.send(answer.data(), size);
    }
    if (!client.send(&size, sizeof(size))) {
        return false;
    }
    for (uint64_t passed = 0; passed < size;) {
        const size_t n = std::min<uint64_t>(answer.size(), size - passed);
        if (lost() != nullptr || !server_.receive(answer.data(), n)) {
            lose(CLOSED);
            std::fill(answer.begin(), answer.end(), 0);
        }
        if (!client.send(answer.data(), n)) {
            return false;
        }
        passed += n;
    }
    return true;
}

// One request and its answer; false when upstream's side has ended.
bool rpc_relay::relay(const tcp_socket & client, uint8_t command, uint64_t size) {
    const bool alone =
        command == HELLO || command == DEVICE_COUNT || command == GET_ALIGNMENT || command == GET_MAX_SIZE;
    const bool graph = command == GRAPH_COMPUTE || command == GRAPH_RECOMPUTE;
    bool       sound = !alone && reach_server() && (!graph || await_end_of_graph());

    std::vector<uint8_t> chunk(HEADER + std::min<uint64_t>(size, CHUNK)); // the header goes out with the first one
    std::vector<uint8_t> payload; // of a request that is answered: those are short
    chunk[0] = command;
    std::memcpy(&chunk[1], &size, sizeof(size));
    size_t begin = HEADER;
    for (uint64_t received = 0; received < size || begin > 0;) {
        const size_t n = std::min<uint64_t>(size - received, chunk.size() - begin);
        if (!client.receive(chunk.data() + begin, n)) {
            return false;
        }
        if (has_reply(command) && payload.size() < CHUNK) {
            payload.insert(payload.end(), chunk.begin() + begin, chunk.begin() + begin + n);
        }
        if (sound && !server_.send(chunk.data(), begin + n)) {
            lose(CLOSED);
            sound = false;
        }
        received += n;
        begin = 0;
    }
    if (graph && sound && !ask_for_end_of_graph()) {
        lose(CLOSED);
    }
    if (!has_reply(command)) {
        return true;
    }
    return sound ? pass_answer(client, command, payload) : answer_alone(client, command, payload);
}

} // namespace llc
