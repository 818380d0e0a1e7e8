// What stands between upstream's RPC client and a server: it checks what the server says, and answers in its place once
// the server is gone.
//
// Upstream's client ends the process when a connection fails, from a thread that nothing can be thrown out of. So it is
// given the address of a relay in this process, whose connection never fails. The relay passes everything on to the
// server. When that cannot be, the server is marked as lost, forever, and the relay answers with zeros, so that what is
// running comes to its end and everything can be freed; a device_scope then turns the outcome into an error.
#pragma once

#include "tcp_socket.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace llc {

struct rpc_device_facts {
    uint64_t alignment;
    uint64_t max_size;

    bool operator==(const rpc_device_facts & other) const {
        return alignment == other.alignment && max_size == other.max_size;
    }
};

class rpc_relay {
  public:
    // Asks the server for its devices and starts the thread that passes on. Throws std::runtime_error with the reason
    // when there is no server, it speaks another protocol, or what it says is nonsense.
    static std::shared_ptr<rpc_relay> start(const std::string & host, const std::string & port, int timeout_ms);

    const std::string & endpoint() const { return endpoint_; }       // of the server
    const std::string & local_endpoint() const { return local_; }    // of the relay, for upstream
    const char *        lost() const { return lost_.load(); }        // why, or nullptr
    std::mutex &        computing() { return computing_; }
    void                lose(const std::string & reason);            // the first reason stays
    void                ask_again();                                 // throws when the server is not as it was
    bool                is(const char * host, const char * port) const { return host_ == host && port_ == port; }

  private:
    rpc_relay(std::string host, std::string port, int timeout_ms);
    tcp_socket connect_and_check(std::vector<rpc_device_facts> & devices) const;
    void       run();
    void       serve(const tcp_socket & client);
    bool       relay(const tcp_socket & client, uint8_t command, uint64_t size);
    bool       reach_server();
    bool       ask_for_end_of_graph();
    bool       await_end_of_graph();
    bool       pass_answer(const tcp_socket & client, uint8_t command, const std::vector<uint8_t> & payload);
    bool       answer_alone(const tcp_socket & client, uint8_t command, const std::vector<uint8_t> & payload) const;

    const std::string             host_;
    const std::string             port_;
    const std::string             endpoint_;
    const int                     timeout_ms_;
    std::string                   local_;
    std::vector<rpc_device_facts> devices_;
    tcp_socket                    listening_;
    std::mutex                    computing_; // upstream's client mixes up the graphs of two threads
    std::mutex                    server_mutex_; // of server_: made and closed by the relay's thread, shut by others
    tcp_socket                    server_;
    bool                          computing_on_ = false; // a graph was sent whose end was not seen yet
    std::atomic<const char *>     lost_{nullptr};
};

} // namespace llc
