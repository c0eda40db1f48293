#pragma once

#include "semoe/checkpoint/detail/tensor_names.hpp"
#include "semoe/checkpoint/dtype.hpp"
#include "semoe/checkpoint/safetensors.hpp"
#include "semoe/checkpoint/safetensors_options.hpp"
#include "semoe/core/error.hpp"
#include "semoe/core/layout.hpp"
#include "semoe/core/message.hpp"
#include "semoe/io/make_transfers.hpp"
#include "semoe/layer/blocks.hpp"
#include "semoe/tier/concept.hpp"
#include "semoe/tier/detail/block_map.hpp"
#include "semoe/tier/detail/job_pool.hpp"

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace semoe::checkpoint::detail {

/// What the blocks of a model's layers are made of.
struct BlockTensors {
    struct Block {
        BlockLayout layout;
        Dtype dtype = Dtype::U8;
        std::uint64_t contents = 0;
        std::string codes = {}, activation = {}; ///< of codes_of() and activation_of()
    };
    Block expert, router;
    std::optional<Block> shared = {};

    Block const* find(BlockKey key) const {
        if (key.kind != BlockKind::weight || key.layer < 0) return nullptr;
        if (key.expert == router_block) return &router;
        if (key.expert == shared_block) return shared ? &*shared : nullptr;
        return key.expert >= 0 ? &expert : nullptr;
    }
};

/// What the copies of a SafetensorsStore share: where each block's tensors lie, and transfers from
/// there into memory.
class TensorBlocks {
    /// A tensor's bytes, and where in its block they go.
    struct Part {
        std::string tensor;
        index_t offset = 0, bytes = 0, place = 0;
    };
    struct Block {
        BlockInfo info;
        std::vector<Part> parts;
    };

public:
    /// One load from the call to its end.
    struct Job {
        BlockKey key;
        Block const* block = nullptr;
        io::Transfer transfers[BlockLayout::max_slices]; ///< one a part
    };

    TensorBlocks(std::string const& path, BlockTensors const& tensors, SafetensorsOptions options,
                 io::FileSystem& system)
      : tensors_(tensors)
      , file_(system, path, false, options.way)
      , header_(file_.file())
      , transfers_(io::make_transfers(file_, options.transfers)) {
        if (std::size_t const n = header_.names().size(); n > 0 && keys().empty())
            throw store_error(message("{}: none of its {} tensors is of a block of this model, as "
                                      "'layers.0.router.weight' would be; "
                                      "checkpoint::import_weights takes other names",
                                      this->path(), n));
    }
    TensorBlocks(TensorBlocks const&) = delete;
    TensorBlocks& operator=(TensorBlocks const&) = delete;

    void declare(BlockKey key, BlockInfo info) {
        tier::detail::expect_same<store_error>(name(), key, this->info(key), info);
    }
    /// Whether the file has every tensor of the block, of whatever shapes.
    bool contains(BlockKey key) const {
        BlockTensors::Block const* const made_of = tensors_.find(key);
        if (!made_of) return false;
        for (Slice const& slice : made_of->layout)
            if (!slice.derived && !header_.contains(tensor_name(key, slice))) return false;
        return true;
    }
    BlockInfo info(BlockKey key) {
        std::lock_guard lock(mutex_);
        return block(key).info;
    }
    std::vector<BlockKey> keys() const {
        std::set<BlockKey> found;
        for (std::string const& tensor : header_.names())
            if (auto const key = block_of(tensor); key && contains(*key)) found.insert(*key);
        return {found.begin(), found.end()};
    }

    /// A load of the whole block that has not started. Nothing has happened where it throws.
    Job& job(io::Transfer::Kind, BlockKey key, std::byte* memory, index_t bytes) {
        std::lock_guard lock(mutex_);
        Block const& block = this->block(key);
        expects(bytes == block.info.bytes, [&] {
            return message("{}: {} has {}, the memory to transfer has {} bytes", name(),
                           to_string(key), to_string(block.info), bytes);
        });
        Job& job = jobs_.take();
        job.key = key;
        job.block = &block;
        io::Transfer* transfer = job.transfers;
        for (Part const& part : block.parts) {
            transfer->file = &file_;
            transfer->memory = memory + part.place;
            transfer->bytes = part.bytes;
            transfer->offset = part.offset;
            transfer->done = false;
            ++transfer;
        }
        ++counters_.loads;
        counters_.bytes_loaded += bytes;
        return job;
    }
    /// Never waits for the file.
    void start(Job& job) noexcept {
        // With the last one started the job may be over, and another's.
        std::size_t const n = job.block->parts.size();
        for (std::size_t i = 0; i < n; ++i) transfers_->start(job.transfers[i]);
    }
    /// Waits until the job is over; may be called before start.
    /// @throws store_error naming the file, the block, the tensor and the cause
    void finish(Job& job) {
        std::string failure;
        for (std::size_t i = 0; i < job.block->parts.size(); ++i) {
            io::Transfer& transfer = job.transfers[i];
            transfers_->wait(transfer);
            if (transfer.error != 0 && failure.empty())
                failure = path() + ": " + to_string(job.key) + ": tensor " +
                          in_quotes(job.block->parts[i].tensor) + ": " + transfer.describe_error();
        }
        {
            std::lock_guard lock(mutex_);
            jobs_.give(job);
        }
        if (!failure.empty()) throw store_error(failure);
    }

    /// @throws store_error, always
    [[noreturn]] void refuse_store(BlockKey key) const {
        throw store_error(path() + ": " + to_string(key) +
                          " cannot be stored: a store of tensors is for reading; convert it with "
                          "tier::write_blocks and open the result as a tier::FileStore");
    }

    std::string const& path() const { return file_.name(); }
    io::Way way() const { return file_.way(); }
    io::Engine engine() const { return transfers_->engine(); }
    SafetensorsCounters counters() const {
        std::lock_guard lock(mutex_);
        SafetensorsCounters all = counters_;
        all.transfers = transfers_->counters();
        return all;
    }

private:
    static constexpr char const* name() { return "checkpoint::SafetensorsStore"; }
    static std::string tensor_name(BlockKey key, Slice const& slice) {
        return layer_prefix(key.layer) + semoe::detail::parameter_name(key.expert, slice.name);
    }

    /// The block, checked when it is asked for first; it stays where it is. @pre mutex_ is held
    Block const& block(BlockKey key) {
        auto const found = blocks_.find(key);
        return found != blocks_.end() ? found->second
                                      : blocks_.emplace(key, check(key)).first->second;
    }
    Block check(BlockKey key) const {
        BlockTensors::Block const* const made_of = tensors_.find(key);
        if (!made_of)
            throw store_error(path() + ": " + to_string(key) +
                              (key.kind == BlockKind::weight
                                   ? " is none of this model's"
                                   : " is not in the file: a store of tensors has weights alone"));
        expect_expert(key, *made_of);
        index_t const element = size_bytes(made_of->dtype);
        Block block{{made_of->layout.elements() * element, made_of->layout.id(), made_of->contents},
                    {}};
        for (Slice const& slice : made_of->layout) {
            if (slice.derived)
                throw store_error(path() + ": " + to_string(key) + ": its slice '" + slice.name +
                                  "' (" + to_string(made_of->layout.id()) +
                                  ") is derived, and no tensor; use an expert without such "
                                  "slices, or load_weights into a layer that keeps its blocks");
            std::string const name = tensor_name(key, slice);
            index_t const shape[] = {slice.rows, slice.cols};
            StoredTensor const tensor = header_.tensor(name, made_of->dtype, shape);
            block.parts.push_back(
                {name, tensor.offset, index_t(tensor.bytes.size()), slice.offset * element});
        }
        // Whoever waits for a load must see that it was started, also of a block without slices.
        if (block.parts.empty()) block.parts.push_back({});
        return block;
    }

    void expect_expert(BlockKey key, BlockTensors::Block const& wanted) const {
        std::string const which =
            layer_prefix(key.layer) + (key.expert == shared_block ? "shared." : "experts.");
        auto const& metadata = header_.metadata();
        if (!wanted.codes.empty())
            expect_property(path(), metadata, which + codes_key, wanted.codes);
        if (!wanted.activation.empty())
            expect_name(path(), metadata, which + activation_key, wanted.activation);
    }

    BlockTensors tensors_;
    io::TransferFile file_;
    SafetensorsFile header_; // of that very file, whatever its path names by now
    std::unique_ptr<io::Transfers> transfers_;
    mutable std::mutex mutex_;
    tier::detail::BlockMap<Block> blocks_;
    tier::detail::JobPool<Job> jobs_;
    SafetensorsCounters counters_;
};

} // namespace semoe::checkpoint::detail
