#include "rpc.h"

#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "guard.h"
#include "rpc_relay.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <string>

using llc::guarded;
using llc::rpc_relay;

namespace {

struct remote_device {
    ggml_backend_dev_t         device;
    std::shared_ptr<rpc_relay> relay;
};

std::mutex                 mutex;   // of the list, which only grows
std::vector<remote_device> devices; // not in upstream's registry: only those who name them get them
std::atomic<size_t>        n_devices{0};

// The devices behind one that stands for several, which does not tell them. Upstream frees neither.
std::map<ggml_backend_dev_t, std::vector<ggml_backend_dev_t>> split_over;

std::shared_ptr<rpc_relay> relay_of(ggml_backend_dev_t device) {
    std::lock_guard<std::mutex> lock(mutex);
    for (const auto & each : devices) {
        if (each.device == device) {
            return each.relay;
        }
    }
    return nullptr;
}

void add_once(std::vector<std::shared_ptr<rpc_relay>> & found, std::shared_ptr<rpc_relay> relay) {
    if (relay != nullptr && std::find(found.begin(), found.end(), relay) == found.end()) {
        found.push_back(std::move(relay));
    }
}

// Those of a model, always in the same order.
std::vector<std::shared_ptr<rpc_relay>> relays_of(const llama_model * model) {
    std::vector<std::shared_ptr<rpc_relay>> found;
    if (n_devices.load() == 0) {
        return found;
    }
    std::lock_guard<std::mutex> lock(mutex);
    std::vector<ggml_backend_dev_t> of_model;
    for (int32_t i = 0; i < llc_model_n_devices(model); ++i) {
        auto *     device = llc_model_device(model, i);
        const auto parts  = split_over.find(device);
        if (parts == split_over.end()) {
            of_model.push_back(device);
        } else {
            of_model.insert(of_model.end(), parts->second.begin(), parts->second.end());
        }
    }
    for (const auto & each : devices) {
        if (std::find(of_model.begin(), of_model.end(), each.device) != of_model.end()) {
            add_once(found, each.relay);
        }
    }
    return found;
}

void require_alive(const std::vector<std::shared_ptr<rpc_relay>> & relays) {
    for (const auto & relay : relays) {
        if (relay->lost() != nullptr) {
            throw llc::device_lost("the RPC server " + relay->endpoint() + " is lost: " + relay->lost());
        }
    }
}

template <typename Function> Function * rpc_function(const char * name) {
    auto * registry = ggml_backend_reg_by_name("RPC");
    auto * found    = registry ? ggml_backend_reg_get_proc_address(registry, name) : nullptr;
    if (found == nullptr) {
        throw std::runtime_error("these libraries have no RPC back end");
    }
    return reinterpret_cast<Function *>(found);
}

} // namespace

namespace llc {

void require_devices(const llama_model * model) {
    require_alive(relays_of(model));
}

void require_devices(const ggml_backend_dev_t * list) {
    std::vector<std::shared_ptr<rpc_relay>> found;
    for (; list != nullptr && *list != nullptr; ++list) {
        add_once(found, relay_of(*list));
    }
    require_alive(found);
}

void remember_split(const llama_model * model, const ggml_backend_dev_t * list) {
    if (list == nullptr || llc_model_n_devices(model) == 0) {
        return;
    }
    auto * device = llc_model_device(model, 0);
    if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_META) {
        return;
    }
    std::lock_guard<std::mutex> lock(mutex);
    auto & parts = split_over[device];
    parts.clear();
    for (; *list != nullptr; ++list) {
        parts.push_back(*list);
    }
}

device_scope::device_scope(const llama_context * ctx) {
    if (ctx == nullptr || n_devices.load() == 0) {
        return;
    }
    relays_ = relays_of(llama_get_model(ctx));
    for (const auto & relay : relays_) {
        locks_.emplace_back(relay->computing());
    }
    require_alive(relays_);
}

void device_scope::finish(llama_context * ctx) const {
    if (!relays_.empty()) {
        llama_synchronize(ctx);
        require_alive(relays_);
    }
}

} // namespace llc

bool llc_rpc_available(void) {
    return ggml_backend_reg_by_name("RPC") != nullptr;
}

enum llc_status llc_rpc_add_server(
        const char * host, const char * port, int32_t timeout_ms, ggml_backend_dev_t * found, size_t capacity,
        size_t * count) {
    *count = 0;
    return guarded([&] {
        static std::mutex adding;
        const std::lock_guard<std::mutex> one_at_a_time(adding);
        auto * add = rpc_function<decltype(ggml_backend_rpc_add_server)>("ggml_backend_rpc_add_server");
        std::vector<ggml_backend_dev_t> known;
        std::shared_ptr<rpc_relay>      relay;
        {
            std::lock_guard<std::mutex> lock(mutex);
            for (const auto & each : devices) {
                if (each.relay->lost() == nullptr && each.relay->is(host, port)) {
                    known.push_back(each.device);
                    relay = each.relay;
                }
            }
        }
        if (relay != nullptr) {
            relay->ask_again();
        } else {
            relay = rpc_relay::start(host, port, timeout_ms);
            auto * registry = add(relay->local_endpoint().c_str());
            for (size_t i = 0; registry != nullptr && i < ggml_backend_reg_dev_count(registry); ++i) {
                known.push_back(ggml_backend_reg_dev_get(registry, i));
            }
            std::lock_guard<std::mutex> lock(mutex);
            for (auto * device : known) {
                devices.push_back({device, relay});
            }
            n_devices = devices.size();
        }
        for (auto * device : known) {
            if (*count < capacity) {
                found[*count] = device;
            }
            ++*count;
        }
        return *count > 0 ? LLC_OK : LLC_FAILED;
    });
}

void llc_rpc_lose_server(const char * host, const char * port, const char * reason) {
    std::vector<std::shared_ptr<rpc_relay>> found;
    {
        std::lock_guard<std::mutex> lock(mutex);
        for (const auto & each : devices) {
            if (each.relay->is(host, port)) {
                add_once(found, each.relay);
            }
        }
    }
    for (const auto & relay : found) {
        relay->lose(reason);
    }
}

size_t llc_rpc_devices(ggml_backend_dev_t * found, size_t capacity) {
    std::lock_guard<std::mutex> lock(mutex);
    for (size_t i = 0; i < std::min(capacity, devices.size()); ++i) {
        found[i] = devices[i].device;
    }
    return devices.size();
}

const char * llc_rpc_endpoint(ggml_backend_dev_t device) {
    const auto relay = relay_of(device);
    return relay ? relay->endpoint().c_str() : nullptr;
}

const char * llc_rpc_lost(ggml_backend_dev_t device) {
    const auto relay = relay_of(device);
    return relay ? relay->lost() : nullptr;
}

enum llc_status llc_rpc_serve(
        const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_served, ggml_backend_dev_t * served) {
    return guarded([&] {
        rpc_function<decltype(ggml_backend_rpc_start_server)>("ggml_backend_rpc_start_server")(
            endpoint, cache_dir, n_threads, n_served, served);
        return LLC_FAILED; // it returns when it could not begin
    });
}
