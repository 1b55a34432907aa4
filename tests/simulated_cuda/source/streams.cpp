// Streams and events, recordings of streams, and what torch asks of a kind of device.
#include "simulator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <array>
#include <map>
#include <thread>

namespace simulated {

bool is_pinned(const void* data);

namespace {

struct Stream {
  Clock ended;         // the work of all streams that ends before the next work of this one
  int64_t graph = 0;   // in which this stream is recorded
};

struct Event {
  Clock ended;
  int64_t graph = 0;
};

struct Recording {
  int64_t stream;
  std::string mode, spoiled_by;
  std::thread::id thread;
};

std::map<int64_t, Stream> streams;
std::map<int64_t, Recording> recordings;  // under way, by graph
Clock host;                               // the work that the host knows to have ended
int64_t n_streams = 0;
std::vector<std::string> faults;
std::map<std::string, int64_t> counts;

thread_local c10::DeviceIndex current_index = 0;
thread_local std::array<int64_t, kDevices> current_streams{};  // identities within the device

void join(Clock& clock, const Clock& other) {
  for (const auto& [stream, number] : other) clock[stream] = std::max(clock[stream], number);
}

[[noreturn]] void spoil(Recording& recording, const std::string& what) {
  recording.spoiled_by = what;
  TORCH_CHECK(false, "CUDA error: operation not permitted when stream is capturing (simulated): ",
              what);
}

// Calls that may wait for a stream in a recording are refused in the thread that records, and in
// all threads in the mode "global".
void refuse_if_unsafe(const std::string& what) {
  for (auto& [graph, recording] : recordings)
    if (recording.mode == "global" ||
        (recording.mode == "thread_local" && recording.thread == std::this_thread::get_id()))
      spoil(recording, what);
}

void refuse_if_recorded(int64_t graph, const std::string& what) {
  if (graph && recordings.count(graph)) spoil(recordings.at(graph), what);
}

void let_host_know(const Clock& ended) {
  join(host, ended);
  check_pinned();
}

}  // namespace

std::recursive_mutex& state() {
  static std::recursive_mutex mutex;
  return mutex;
}

c10::DeviceIndex current_device() { return current_index; }
void set_current_device(c10::DeviceIndex device) {
  TORCH_CHECK(device >= 0 && device < kDevices, "CUDA error: invalid device ordinal (simulated)");
  current_index = device;
}

c10::Stream current_stream(c10::DeviceIndex device) {
  const c10::Device owner(c10::DeviceType::CUDA, device);
  return c10::Stream(c10::Stream::UNSAFE, owner, current_streams[device]);
}

// Other streams have numbers above zero, whatever their device.
int64_t key_of(const c10::Stream& stream) {
  return stream.id() ? stream.id() : -1 - stream.device_index();
}

Work begin_work(c10::DeviceIndex device) {
  Lock lock(state());
  const int64_t key = key_of(current_stream(device));
  auto& stream = streams[key];
  join(stream.ended, host);
  return {key, ++stream.ended[key]};
}

int64_t latest_work(int64_t stream) {
  Lock lock(state());
  return streams[stream].ended[stream];
}

bool ends_before_stream(const Work& work, int64_t stream) {
  Lock lock(state());
  auto& ended = streams[stream].ended;
  return work.stream == stream || ends_before_host(work) ||
      (ended.count(work.stream) && ended[work.stream] >= work.number);
}

bool ends_before_host(const Work& work) {
  return host.count(work.stream) && host[work.stream] >= work.number;
}

void wait_for_stream(c10::DeviceIndex device, const std::string& why) {
  Lock lock(state());
  count("wait: " + why);
  auto& stream = streams[key_of(current_stream(device))];
  refuse_if_recorded(stream.graph, why);
  refuse_if_unsafe(why);
  let_host_know(stream.ended);
}

int64_t recording(c10::DeviceIndex device) {
  Lock lock(state());
  return streams[key_of(current_stream(device))].graph;
}

void refuse_in_recording(c10::DeviceIndex device, const std::string& what) {
  Lock lock(state());
  refuse_if_recorded(recording(device), what);
}

void begin_recording(int64_t graph, const std::string& mode) {
  Lock lock(state());
  const auto stream = current_stream(current_index);
  TORCH_CHECK(stream.id(), "CUDA graphs must be captured on a non-default stream (simulated)");
  auto& state_of_stream = streams[key_of(stream)];
  TORCH_CHECK(!state_of_stream.graph, "the stream is being captured already (simulated)");
  state_of_stream.graph = graph;
  recordings[graph] = {key_of(stream), mode, "", std::this_thread::get_id()};
}

std::string end_recording(int64_t graph) {
  Lock lock(state());
  TORCH_CHECK(recordings.count(graph), "capture_end() called before capture_begin() (simulated)");
  const auto ended = recordings.at(graph);
  TORCH_CHECK(key_of(current_stream(current_index)) == ended.stream,
              "Capture must end on the same stream it began on (simulated)");
  recordings.erase(graph);
  streams[ended.stream].graph = 0;
  return ended.spoiled_by;
}

void note_fault(const std::string& fault) {
  Lock lock(state());
  faults.push_back(fault);
}

std::vector<std::string> take_faults() {
  Lock lock(state());
  check_pinned();
  return std::exchange(faults, {});
}

void count(const std::string& name) {
  Lock lock(state());
  ++counts[name];
}

void count_kernel(const std::string& name, int64_t graph) {
  count(graph ? "recorded" : "kernels");
  if (!graph && !is_replaying()) count(name);
}

std::map<std::string, int64_t> take_counts() {
  Lock lock(state());
  return std::exchange(counts, {});
}

// ---- generators

Generator::Generator(c10::DeviceIndex device)
    : c10::GeneratorImpl({c10::DeviceType::CUDA, device < 0 ? current_device() : device},
                         c10::DispatchKeySet(c10::DispatchKey::CUDA)),
      inner(at::detail::createCPUGenerator(c10::default_rng_seed_val)) {
  refuse_in_recording(this->device().index(), "a new generator");
}
void Generator::set_current_seed(uint64_t seed) {
  refuse_in_recording(device().index(), "a generator's seed");
  inner.set_current_seed(seed);
}
void Generator::set_offset(uint64_t) { TORCH_CHECK(false, "offsets are not simulated"); }
uint64_t Generator::get_offset() const { TORCH_CHECK(false, "offsets are not simulated"); }
uint64_t Generator::current_seed() const { return inner.current_seed(); }
uint64_t Generator::seed() { return inner.seed(); }
void Generator::set_state(const c10::TensorImpl& state) {
  refuse_in_recording(device().index(), "a generator's state");
  inner.unsafeGetGeneratorImpl()->set_state(state);
}
c10::intrusive_ptr<c10::TensorImpl> Generator::get_state() const {
  refuse_in_recording(device().index(), "a generator's state");
  return inner.unsafeGetGeneratorImpl()->get_state();
}
Generator* Generator::clone_impl() const {
  auto* clone = new Generator(device().index());
  clone->inner = inner.clone();
  return clone;
}

// ---- what torch asks

namespace {

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device getDevice() const override { return {type(), current_index}; }
  void setDevice(c10::Device device) const override { set_current_device(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_index = device.index();
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }

  c10::Stream getStream(c10::Device device) const override {
    return current_stream(device.has_index() ? device.index() : current_index);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getNewStream(c10::Device device, int = 0) const override {
    Lock lock(state());
    const auto index = device.has_index() ? device.index() : current_index;
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(type(), index), ++n_streams);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool = false) const override {
    return getNewStream(device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = current_stream(stream.device_index());
    current_streams[stream.device_index()] = stream.id();
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override {
    Lock lock(state());
    refuse_if_recorded(streams[key_of(stream)].graph, "a question about a stream");
    return true;
  }
  bool isStreamCapturing(const c10::Stream& stream) const {
    Lock lock(state());
    return streams[key_of(stream)].graph;
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    Lock lock(state());
    count("wait: for a stream");
    refuse_if_recorded(streams[key_of(stream)].graph, "synchronization with a stream");
    refuse_if_unsafe("synchronization with a stream");
    let_host_know(streams[key_of(stream)].ended);
  }
  // No stream of a device that is synchronized may be in a recording, of whichever thread.
  void synchronizeDevice(const c10::DeviceIndex) const override {
    Lock lock(state());
    count("wait: for a device");
    for (auto& [graph, recording] : recordings) spoil(recording, "synchronization of the device");
    for (const auto& [key, stream] : streams) let_host_know(stream.ended);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    Lock lock(state());
    if (!*event) *event = new Event;
    const auto& recorded = streams[key_of(stream)];
    *static_cast<Event*>(*event) = {recorded.ended, recorded.graph};
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (!event) return;
    Lock lock(state());
    const auto& awaited = *static_cast<Event*>(event);
    auto& waiting = streams[key_of(stream)];
    refuse_if_recorded(waiting.graph != awaited.graph ? waiting.graph : 0,
                       "a wait for an event from outside");
    TORCH_CHECK(waiting.graph == awaited.graph, "recordings of several streams are not simulated");
    join(waiting.ended, awaited.ended);
  }
  bool queryEvent(void* event) const override {
    if (!event) return true;
    Lock lock(state());
    refuse_if_recorded(static_cast<Event*>(event)->graph, "a question about an event");
    refuse_if_unsafe("a question about an event");
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (!event) return;
    Lock lock(state());
    count("wait: for an event");
    refuse_if_recorded(static_cast<Event*>(event)->graph, "synchronization with an event");
    refuse_if_unsafe("synchronization with an event");
    let_host_know(static_cast<Event*>(event)->ended);
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Event*>(event);
  }
  double elapsedTime(void*, void*, const c10::DeviceIndex) const override { return 0; }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    record_on_stream(data, stream);
  }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

}  // namespace
}  // namespace simulated

namespace at {

// The name by which torch looks for them.
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return simulated::kDevices; }
  int getNumGPUs() const override { return simulated::kDevices; }
  DeviceIndex current_device() const override { return simulated::current_device(); }
  DeviceIndex getCurrentDevice() const override { return simulated::current_device(); }
  void setCurrentDevice(DeviceIndex device) const override { simulated::set_current_device(device); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    const auto before = simulated::current_device();
    simulated::set_current_device(device);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override {
    return exchangeDevice(device);
  }
  void deviceSynchronize(DeviceIndex device) const override {
    c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->synchronizeDevice(device);
  }
  const Generator& getDefaultGenerator(DeviceIndex device) const override {
    static std::array<Generator, simulated::kDevices> defaults;
    simulated::Lock lock(simulated::state());
    auto& generator = defaults.at(device < 0 ? simulated::current_device() : device);
    if (!generator.defined()) generator = getNewGenerator(device);
    return generator;
  }
  Generator getNewGenerator(DeviceIndex device) const override {
    return make_generator<simulated::Generator>(device);
  }
  bool isPinnedPtr(const void* data) const override { return simulated::is_pinned(data); }
  Allocator* getPinnedMemoryAllocator() const override { return simulated::pinned_allocator(); }
  Allocator* getCUDADeviceAllocator() const override { return simulated::device_allocator(); }
  Device getDeviceFromPtr(void*) const override {
    TORCH_CHECK(false, "the device of a bare address is not simulated");
  }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
