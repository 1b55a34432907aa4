// Memory of the device and pinned memory: the host's, filled with NaN, as nobody's memory is zero.
#include "simulator.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <cstdlib>
#include <cstring>
#include <list>
#include <string_view>
#include <unordered_set>

namespace simulated {
namespace {

constexpr size_t kTotal = size_t(80) << 30;
constexpr size_t kGranularity = 512;

struct Ledger {
  size_t limit = kTotal, used = 0, peak = 0, needed = 0;
};
Ledger ledgers[kDevices];

// A copy from pinned memory that the host does not know to have ended.
struct PinnedRead {
  Block* block;
  const char* start;
  size_t n_bytes, hash;
  Work work;
};
std::list<PinnedRead> pinned_reads;
std::unordered_set<void*> pinned_blocks;
// What streams may still be doing to memory that was freed, by the stream it belonged to.
std::unordered_map<int64_t, Clock> uses_of_freed;

size_t hash_of(const char* start, size_t n_bytes) {
  return std::hash<std::string_view>{}({start, n_bytes});
}

Block* new_block(size_t n_bytes, c10::Device device) {
  auto* block = new Block{nullptr, n_bytes, device, 0, 0, {}, {}, {}};
  if (n_bytes) {
    void* data = nullptr;
    TORCH_CHECK(!posix_memalign(&data, kGranularity, n_bytes), "the host has no memory left");
    block->data = static_cast<char*>(data);
    fill_with_nan(block);
  }
  return block;
}

// Memory that is freed may be handed out again at once, for the next work of its own stream.
void remember_uses(const Block& block) {
  auto& uses = uses_of_freed[block.home];
  // a third stream that is to use it then has to wait for its own
  if (block.written.number || !block.read.empty()) uses[block.home] = latest_work(block.home);
  auto remember = [&](const Work& work) {
    const bool is_over = !work.number || block.shared_with.count(work.stream) ||
        ends_before_stream(work, block.home);
    if (!is_over) uses[work.stream] = std::max(uses[work.stream], work.number);
  };
  remember(block.written);
  for (const auto& [stream, number] : block.read) remember({stream, number});
}

void free_device_block(void* context) {
  auto* block = static_cast<Block*>(context);
  {
    Lock lock(state());
    ledgers[block->device.index()].used -= block->n_bytes;
    remember_uses(*block);
  }
  std::free(block->data);
  delete block;
}

void free_pinned_block(void* context) {
  auto* block = static_cast<Block*>(context);
  {
    Lock lock(state());
    check_pinned();
    pinned_reads.remove_if([&](const PinnedRead& read) { return read.block == block; });
    pinned_blocks.erase(block->data);
  }
  std::free(block->data);
  delete block;
}

void keep(void*) {}

struct DeviceAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n) override {
    const auto index = current_device();
    n = (n + kGranularity - 1) / kGranularity * kGranularity;
    Lock lock(state());
    auto& ledger = ledgers[index];
    if (ledger.used + n > ledger.limit) {
      ledger.needed = ledger.used + n;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory (simulated). Tried to allocate ",
                       n, " bytes; ", ledger.used, " of ", ledger.limit, " are in use.");
    }
    const c10::Device device(c10::DeviceType::CUDA, index);
    auto* block = new_block(n, device);
    ledger.used += n;
    ledger.peak = std::max(ledger.peak, ledger.used);
    block->graph = recording(index);
    block->home = key_of(current_stream(index));
    if (!block->graph) block->read = uses_of_freed[block->home];
    return {block->data, block, &free_device_block, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}  // nothing is cached
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    record_on_stream(data, stream);
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    Lock lock(state());
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto& bytes = stats.allocated_bytes[0];
    bytes.current = ledgers[index].used;
    bytes.peak = ledgers[index].peak;
    stats.reserved_bytes = stats.allocated_bytes;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex index) override {
    Lock lock(state());
    ledgers[index].peak = ledgers[index].used;
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    Lock lock(state());
    const auto& ledger = ledgers[index];
    return {ledger.limit - std::min(ledger.limit, ledger.used), ledger.limit};
  }
};

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    auto* block = new_block(n, c10::Device(c10::DeviceType::CPU));
    Lock lock(state());
    if (n) pinned_blocks.insert(block->data);
    return {block->data, block, &free_pinned_block, block->device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
};

DeviceAllocator the_device_allocator;
PinnedAllocator the_pinned_allocator;
const bool is_registered =
    (c10::SetAllocator(c10::DeviceType::CUDA, &the_device_allocator, 200), true);

}  // namespace

c10::Allocator* device_allocator() { return &the_device_allocator; }
c10::Allocator* pinned_allocator() { return &the_pinned_allocator; }

void fill_with_nan(Block* block) { std::memset(block->data, 0xFF, block->n_bytes); }

Block* block_of(const at::Tensor& tensor) {
  const auto& data = tensor.storage().data_ptr();
  if (auto* own = data.cast_context<Block>(&free_device_block)) return own;
  return data.cast_context<Block>(&keep);
}

Block* pinned_block_of(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().cast_context<Block>(&free_pinned_block);
}

bool is_pinned(const void* data) {
  Lock lock(state());
  return pinned_blocks.count(const_cast<void*>(data));
}

c10::DataPtr borrow(Block* block) { return {block->data, block, &keep, block->device}; }

void touch(Block* block, const Work& work, bool writes, const std::string& what) {
  if (!block) return;
  Lock lock(state());
  auto check = [&](const Work& other, const char* did) {
    TORCH_CHECK(!other.number || ends_before_stream(other, work.stream), what, " on stream ",
                work.stream, writes ? " writes to" : " reads", " memory that stream ", other.stream,
                " may still be ", did, " (simulated): let the one stream wait for the other, or "
                "call record_stream before the memory is freed");
  };
  check(block->written, "writing to");
  if (writes) {
    for (const auto& [stream, number] : block->read) check({stream, number}, "reading");
    block->written = work;
    block->read.clear();
  } else {
    block->read[work.stream] = work.number;
  }
}

void record_on_stream(const c10::DataPtr& data, const c10::Stream& stream) {
  Lock lock(state());
  if (auto* block = data.cast_context<Block>(&free_device_block))
    block->shared_with.insert(key_of(stream));
}

void read_pinned(Block* block, const char* start, size_t n_bytes, const Work& work) {
  Lock lock(state());
  pinned_reads.push_back({block, start, n_bytes, hash_of(start, n_bytes), work});
}

void check_pinned() {
  Lock lock(state());
  bool has_changed = false;
  pinned_reads.remove_if([&](const PinnedRead& read) {
    const bool differs = hash_of(read.start, read.n_bytes) != read.hash;
    has_changed |= differs;
    return differs || ends_before_host(read.work);
  });
  if (has_changed)
    note_fault("pinned memory was written to before its copy to the device was known to have "
               "ended: synchronize with an event that follows the copy");
}

// ---- for Python, by operators.cpp

void set_limit(int64_t device, int64_t n_bytes) {
  Lock lock(state());
  ledgers[device].limit = n_bytes < 0 ? kTotal : n_bytes;
}
int64_t needed_bytes(int64_t device) {
  Lock lock(state());
  return ledgers[device].needed;
}

}  // namespace simulated
