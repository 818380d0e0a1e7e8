// Which devices are on other machines, and what computes there.
#pragma once

#include "llama.h"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace llc {

class rpc_relay;

// Throws device_lost (guard.h) when a server that has devices of the model is gone; costs one load of an atomic number
// while there is no server.
void require_devices(const struct llama_model * model);
void require_devices(const ggml_backend_dev_t * devices); // a list that ends with nullptr, or nullptr

// After a model was loaded on a list of devices: those of a model that is split by tensors cannot be asked for.
void remember_split(const struct llama_model * model, const ggml_backend_dev_t * devices);

// Around what computes on the devices of a context: one thread at a time on those of a server.
class device_scope {
  public:
    explicit device_scope(const struct llama_context * ctx); // nullptr for none; throws device_lost
    void finish(struct llama_context * ctx) const;           // waits for the results; throws device_lost

  private:
    std::vector<std::shared_ptr<rpc_relay>>   relays_;
    std::vector<std::unique_lock<std::mutex>> locks_;
};

} // namespace llc
