#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/types.hpp"
#include "semoe/core/view.hpp"

#include <memory>
#include <utility>

namespace semoe::tier::detail {

/// A pin on one slot of a tier. Remembers the queue that the slot was acquired on and hands it back
/// when it dies.
/// @tparam State  what the tier's handles share: `release(Slot&, B&, Access) noexcept`
template <class State, class Slot, class B>
class SlotLease {
public:
    SlotLease(std::shared_ptr<State> tier, Slot& slot, Bytes<space_of<B>> bytes, B const& queue,
              Access access)
      : tier_(std::move(tier))
      , slot_(&slot)
      , bytes_(bytes)
      , queue_(queue)
      , access_(access) {}
    SlotLease(SlotLease&& other) noexcept
      : tier_(std::move(other.tier_))
      , slot_(other.slot_)
      , bytes_(std::exchange(other.bytes_, {}))
      , queue_(std::move(other.queue_))
      , access_(other.access_) {}
    SlotLease& operator=(SlotLease&& other) noexcept {
        std::swap(tier_, other.tier_);
        std::swap(slot_, other.slot_);
        std::swap(bytes_, other.bytes_);
        std::swap(queue_, other.queue_);
        std::swap(access_, other.access_);
        return *this;
    }
    ~SlotLease() {
        if (tier_) tier_->release(*slot_, queue_, access_);
    }

    /// The block's bytes in backend memory.
    Bytes<space_of<B>> bytes() const { return bytes_; }

private:
    std::shared_ptr<State> tier_;
    Slot* slot_;
    Bytes<space_of<B>> bytes_;
    B queue_;
    Access access_;
};

} // namespace semoe::tier::detail
