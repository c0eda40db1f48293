#pragma once

#include "semoe/backend/concept.hpp"
#include "semoe/core/types.hpp"

namespace semoe::tier::detail {

/// Orders the queues that use one piece of memory: remembers what the next reader and the next
/// writer have to wait for. Guarded by its owner's lock.
template <class Event>
class AccessOrder { // NOLINT(bugprone-reserved-identifier): the compiler names it
public:
    static constexpr int max_readers = 4;

    /// Some events, by value, so that they can be waited for without the lock. Two more than
    /// before() returns fit in.
    struct Events {
        Event at[max_readers + 3] = {};
        int size = 0;

        void add(Event const& event) { at[size++] = event; }
        void add(Events const& events) {
            for (int i = 0; i < events.size; ++i) add(events.at[i]);
        }
        /// Where nobody can ask, as if they were.
        template <class B>
        bool reached(B const& b) const {
            bool all = true;
            if constexpr (HasEventQuery<B>) {
                for (int i = 0; i < size; ++i) all = all && b.reached(at[i]);
            }
            return all;
        }
        template <class B>
        void wait(B& b) const {
            for (int i = 0; i < size; ++i) b.wait(at[i]);
        }
        /// As wait, but errors are left to whoever gave the work, unless b can only take them.
        template <class B>
        void follow(B& b) const {
            for (int i = 0; i < size; ++i) AccessOrder::follow(b, at[i]);
        }
    };

    /// What comes before an access that begins now.
    Events before(Access access) const {
        Events events;
        events.add(written_);
        if (access != Access::read) events.add(readers());
        return events;
    }
    /// Who reads now. A writer waits for them, and leaves their errors to their queues.
    Events readers() const {
        Events events;
        for (int i = 0; i < num_readers_; ++i) events.add(readers_[i]);
        return events;
    }
    /// The access on b ends with what b has been given so far.
    template <class B>
    void after(B& b, Access access) {
        if (access != Access::read) return written(b.record());
        if (num_readers_ == max_readers) { // b's next event stands for them all
            for (int i = 0; i < max_readers; ++i) follow(b, readers_[i]);
            num_readers_ = 0;
        }
        readers_[num_readers_++] = b.record();
    }
    /// A writer that waited for before(Access::write) is done when the event is.
    void written(Event event) {
        written_ = event;
        num_readers_ = 0;
    }

    /// For memory that b will free: b waits for every access, whatever became of it.
    template <class B>
    void retire(B& b) const noexcept {
        Events const all = before(Access::write);
        for (int i = 0; i < all.size; ++i) {
            try {
                follow(b, all.at[i]);
            } catch (...) { // what that work threw belongs to whoever gave it
            }
        }
    }

private:
    template <class B>
    static void follow(B& b, Event const& event) {
        if constexpr (HasFollow<B>)
            b.follow(event);
        else
            b.wait(event);
    }

    Event written_ = {}, readers_[max_readers] = {};
    int num_readers_ = 0;
};

} // namespace semoe::tier::detail
