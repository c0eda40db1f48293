#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <new>

namespace semoe::comm::detail {

/// The address of type_tag<E> stands for the type E among threads of one process.
template <class E>
inline constexpr char type_tag = 0;

/// Room for one event of any backend, so that ranks exchange events without allocating.
class EventBox {
public:
    static constexpr std::size_t capacity = 64;

    EventBox() = default;
    EventBox(EventBox const&) = delete;
    EventBox& operator=(EventBox const&) = delete;
    ~EventBox() { clear(); }

    template <std::copyable E>
    void put(E const& event) {
        static_assert(
            sizeof(E) <= capacity && alignof(E) <= alignof(std::max_align_t),
            "comm::Threads: an event_type may have at most 64 bytes; keep a pointer in it");
        clear();
        ::new (static_cast<void*>(storage_)) E(event);
        destroy_ = [](void* storage) { std::destroy_at(static_cast<E*>(storage)); };
    }
    void clear() {
        if (destroy_) destroy_(storage_);
        destroy_ = nullptr;
    }
    bool empty() const { return destroy_ == nullptr; }
    /// @pre the last put() was of an E
    template <std::copyable E>
    E const& get() const {
        return *std::launder(reinterpret_cast<E const*>(storage_));
    }

private:
    alignas(std::max_align_t) std::byte storage_[capacity] = {};
    void (*destroy_)(void*) = nullptr;
};

} // namespace semoe::comm::detail
