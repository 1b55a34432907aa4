// A CUDA device made of the host's memory: what its parts know of each other.
//
//   memory.cpp     blocks of the device's memory, limited and counted; pinned memory of the host
//   streams.cpp    streams, events, who waits for whom; what torch asks of a device
//   graphs.cpp     the calls that a graph has recorded, and their replay
//   operators.cpp  every operator: refused as a GPU would, else computed by the CPU's kernel
//
// Kernels run at once, in the order of the calls. What a GPU would do later is kept track of by
// vector clocks: each stream counts its work and knows how much of the work of other streams has
// ended before its own next work begins. Work that touches memory which other work may still be
// using is an error, although here it would have gone well.
#pragma once
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace simulated {

constexpr c10::DeviceIndex kDevices = 2;

// Guards all state below. It is never held while a kernel runs or a tensor is freed, either of
// which may wait for Python.
std::recursive_mutex& state();
using Lock = std::lock_guard<std::recursive_mutex>;

// ---- streams.cpp

// For each stream, by its key, how much of its work has ended.
using Clock = std::unordered_map<int64_t, int64_t>;

// A piece of work that has been given to a stream.
struct Work {
  int64_t stream;
  int64_t number;
};

c10::Stream current_stream(c10::DeviceIndex device);
int64_t key_of(const c10::Stream& stream);
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex device);

// Give work to the current stream; return it.
Work begin_work(c10::DeviceIndex device);
int64_t latest_work(int64_t stream);
// Whether work has ended before whatever a stream, or the host, does next.
bool ends_before_stream(const Work& work, int64_t stream);
bool ends_before_host(const Work& work);
// Let the host wait for all work of the current stream.
void wait_for_stream(c10::DeviceIndex device, const std::string& why);

// The graph that the current stream of a device is recorded in; 0 for none.
int64_t recording(c10::DeviceIndex device);
// Fail, and spoil the graph, if the current stream is being recorded.
void refuse_in_recording(c10::DeviceIndex device, const std::string& what);
void begin_recording(int64_t graph, const std::string& mode);
// Return what has spoiled the graph, "" if nothing has.
std::string end_recording(int64_t graph);

// What is wrong but could not be thrown where it was noticed, such as in a destructor.
void note_fault(const std::string& fault);
std::vector<std::string> take_faults();

// Add one to the counter of a name.
void count(const std::string& name);
// Count a kernel, and its operator if it was called and neither recorded nor replayed.
void count_kernel(const std::string& name, int64_t graph);

// ---- memory.cpp

struct Block {
  char* data;
  size_t n_bytes;
  c10::Device device;
  int64_t graph;  // the graph during whose recording it was allocated, else 0
  int64_t home;   // the stream that it belongs to
  Work written;   // the last work that wrote to it
  Clock read;     // by stream, the last work that read it
  std::set<int64_t> shared_with;  // by Tensor.record_stream
};

c10::Allocator* device_allocator();
c10::Allocator* pinned_allocator();
Block* block_of(const at::Tensor& tensor);
// The block of a tensor in pinned memory, nullptr if it lies elsewhere.
Block* pinned_block_of(const at::Tensor& tensor);
// A data pointer to a block that does not own it.
c10::DataPtr borrow(Block* block);
// Note that work touches a block; throw where other work may be at it at the same time.
void touch(Block* block, const Work& work, bool writes, const std::string& what);
// Note that a copy reads pinned memory, which the host may not change before it knows the end.
void read_pinned(Block* block, const char* start, size_t n_bytes, const Work& work);
// Look at pinned memory that the host may write to from now on.
void check_pinned();
void fill_with_nan(Block* block);
void record_on_stream(const c10::DataPtr& data, const c10::Stream& stream);

// ---- graphs.cpp

struct Generator;
// Whether this thread replays a graph.
bool is_replaying();
void record_call(int64_t graph, const c10::OperatorHandle& op, const torch::jit::Stack& given,
                 const std::vector<c10::IValue>& results);
// Keep what a tensor holds, to put it back when the recording, which computes nothing, ends.
void save_before_recorded_call(int64_t graph, const at::Tensor& tensor);
void check_generator(int64_t graph, const Generator* generator, const std::string& what);

// ---- operators.cpp

// Compute a call by the CPU's kernel; its results replace its arguments on the stack.
void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack);
at::Tensor& copy(at::Tensor& self, const at::Tensor& src, bool non_blocking);
// The same numbers as a tensor of the CPU, in the same memory.
at::Tensor as_cpu(const at::Tensor& tensor);

// Random numbers are the CPU's, under the name of the device.
struct Generator final : c10::GeneratorImpl {
  at::Generator inner;
  bool is_stuck = false;  // in a recording that has failed
  explicit Generator(c10::DeviceIndex device);
  static c10::DeviceType device_type() { return c10::DeviceType::CUDA; }
  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override;
  uint64_t get_offset() const override;
  uint64_t current_seed() const override;
  uint64_t seed() override;
  void set_state(const c10::TensorImpl& state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;
  Generator* clone_impl() const override;
};

}  // namespace simulated
