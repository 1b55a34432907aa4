// Operators: those that handle memory, and all others by the kernels of the CPU.
#include "simulator.h"

#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/item.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <map>

namespace simulated {

std::map<std::string, int64_t> take_counts();
void set_limit(int64_t device, int64_t n_bytes);
int64_t needed_bytes(int64_t device);
void register_generator(int64_t graph, const at::Generator& generator);
void capture_begin(int64_t graph, const std::string& mode);
void capture_end(int64_t graph);
void replay(int64_t graph);
void drop(int64_t graph);
int64_t n_recorded(int64_t graph);

namespace {

const c10::DispatchKeySet kCuda(c10::DispatchKey::CUDA), kCpu(c10::DispatchKey::CPU);

// The shape of their result depends on numbers of the device, for which the host waits.
const std::set<std::string> kWaiting = {
    "aten::nonzero", "aten::nonzero.out", "aten::masked_select", "aten::masked_select.out",
    "aten::equal", "aten::unique_dim", "aten::unique_consecutive", "aten::_unique2",
    "aten::_unique", "aten::bincount", "aten::repeat_interleave.Tensor"};

std::set<std::string> missing_kernels;

bool on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.is_cuda(); }

at::Tensor new_tensor(at::IntArrayRef size, at::IntArrayRef stride, at::ScalarType dtype) {
  return at::detail::empty_strided_generic(size, stride, device_allocator(), kCuda, dtype);
}

at::Tensor as_device(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  // in memory of its own, so that what it takes is counted
  auto result = new_tensor(tensor.sizes(), tensor.strides(), tensor.scalar_type());
  if (tensor.numel()) as_cpu(result).copy_(tensor);
  return result;
}

// One call of an operator: its arguments are replaced by those of the CPU, its results by those of
// the device.
class OneCall {
 public:
  OneCall(const c10::OperatorHandle& op, torch::jit::Stack* stack)
      : op_(op), schema_(op.schema()), name_(c10::toString(op.operator_name())), stack_(stack) {
    const auto first = stack->size() - schema_.arguments().size();
    given_.assign(stack->begin() + first, stack->end());
    for (size_t i = 0; i < given_.size(); i++)
      each_tensor(given_[i], [&](const at::Tensor& tensor) { look_at(tensor, i); });
    TORCH_CHECK(device_ >= 0, name_, " was called without a tensor on a device (simulated)");
  }

  void run() {
    c10::DeviceGuard guard(c10::Device(c10::DeviceType::CUDA, device_));
    graph_ = recording(device_);
    refuse();
    if (graph_)
      for (const auto& value : given_)
        each_tensor(value, [&](const at::Tensor& t) { save_before_recorded_call(graph_, t); });
    replace_arguments();
    if (!graph_) touch_memory();
    op_.redispatchBoxed(kCpu, stack_);
    adopt_resized();
    replace_results();
    if (graph_) record_call(graph_, op_, given_, results_);
  }

 private:
  template <typename Function>
  static void each_tensor(const c10::IValue& value, Function function) {
    if (value.isTensor()) {
      function(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) function(tensor);
    } else if (value.isOptionalTensorList()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
        if (tensor) function(*tensor);
    }
  }

  template <typename Function>
  static c10::IValue map_tensors(const c10::IValue& value, Function function) {
    if (value.isTensor()) return function(value.toTensor());
    if (value.isTensorList()) {
      auto tensors = value.toTensorVector();
      for (auto& tensor : tensors) tensor = function(tensor);
      return tensors;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> tensors;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
        tensors.push_back(tensor ? std::optional(function(*tensor)) : tensor);
      return tensors;
    }
    return value;
  }

  const c10::Argument& argument(size_t i) const { return schema_.arguments()[i]; }
  bool writes(size_t i) const {
    return argument(i).alias_info() && argument(i).alias_info()->isWrite();
  }

  // torch copies an index of the host to the device by itself.
  bool is_index(size_t i) const {
    return name_.rfind("aten::index", 0) == 0 && argument(i).name() == "indices";
  }

  void look_at(const at::Tensor& tensor, size_t i) {
    if (!tensor.defined()) return;
    if (tensor.is_cuda()) {
      TORCH_CHECK(device_ < 0 || device_ == tensor.get_device(), "Expected all tensors to be on the "
                  "same device, but ", name_, " got some on cuda:0 and some on cuda:1 (simulated)");
      device_ = tensor.get_device();
    } else if (is_index(i)) {
      has_index_of_host_ = true;
    } else if (tensor.dim() > 0 || writes(i)) {
      on_host_ = argument(i).name();
    }
  }

  void refuse() {
    TORCH_CHECK(on_host_.empty(), "Expected all tensors to be on the same device, but ", name_,
                " got its argument ", on_host_, " on cpu beside others on cuda (simulated)");
    TORCH_CHECK_NOT_IMPLEMENTED(!missing_kernels.count(name_), "Could not run '", name_,
                                "' with arguments from the 'CUDA' backend (simulated)");
    if (kWaiting.count(name_)) wait_for_stream(device_, name_);
    if (name_ == "aten::_index_put_impl_") each_tensor(given_[1], [&](const at::Tensor& index) {
      if (index.defined() && index.scalar_type() == at::kBool)
        wait_for_stream(device_, name_ + " with a mask");
    });
    if (has_index_of_host_) {
      refuse_in_recording(device_, "a copy of an index to the device");
      count("copy: to the device");
    }
    count_kernel(name_, graph_);
  }

  at::Tensor replaced(const at::Tensor& tensor) {
    if (!on_device(tensor)) return tensor;
    auto of_cpu = as_cpu(tensor);
    const bool is_number = tensor.unsafeGetTensorImpl()->is_wrapped_number();
    if (is_number) of_cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
    pairs_.emplace_back(tensor, of_cpu);
    return of_cpu;
  }

  void replace_arguments() {
    const auto first = stack_->size() - given_.size();
    for (size_t i = 0; i < given_.size(); i++) {
      auto& value = (*stack_)[first + i];
      if (value.isDevice()) {
        value = c10::Device(c10::DeviceType::CPU);
      } else if (value.isGenerator() && value.toGenerator().defined()) {
        value = inner(value.toGenerator());
      } else {
        value = map_tensors(value, [&](const at::Tensor& tensor) { return replaced(tensor); });
      }
    }
  }

  at::Generator inner(const at::Generator& generator) {
    TORCH_CHECK(generator.device().is_cuda(), name_, ": Expected a 'cuda' device type for generator "
                "but found 'cpu' (simulated)");
    auto* own = static_cast<Generator*>(generator.unsafeGetGeneratorImpl());
    check_generator(graph_, own, name_);
    return own->inner;
  }

  void touch_memory() {
    const auto work = begin_work(device_);
    for (size_t i = 0; i < given_.size(); i++)
      each_tensor(given_[i], [&](const at::Tensor& tensor) {
        if (on_device(tensor)) touch(block_of(tensor), work, writes(i), name_);
      });
    work_ = work;
  }

  // Take over outputs that the kernel has resized.
  void adopt_resized() {
    for (auto& [of_device, of_cpu] : pairs_)
      if (of_cpu.sizes() != of_device.sizes()) {
        of_device.resize_(of_cpu.sizes());
        if (of_cpu.numel()) as_cpu(of_device).copy_(of_cpu);
      }
  }

  at::Tensor result(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    for (const auto& [of_device, of_cpu] : pairs_) {
      if (of_cpu.unsafeGetTensorImpl() == tensor.unsafeGetTensorImpl()) return of_device;
      TORCH_CHECK(!tensor.numel() || !tensor.storage().is_alias_of(of_cpu.storage()), name_,
                  " returns a view, which is not simulated");
    }
    auto made = as_device(tensor);
    if (!graph_) touch(block_of(made), work_, true, name_);
    return made;
  }

  void replace_results() {
    const auto n_results = schema_.returns().size();
    const auto first = stack_->size() - n_results;
    for (size_t i = 0; i < n_results; i++) {
      auto& value = (*stack_)[first + i];
      value = map_tensors(value, [&](const at::Tensor& tensor) { return result(tensor); });
      results_.push_back(value);
    }
  }

  const c10::OperatorHandle& op_;
  const c10::FunctionSchema& schema_;
  const std::string name_;
  torch::jit::Stack* stack_;
  torch::jit::Stack given_;
  std::vector<c10::IValue> results_;
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;  // of the device, of the CPU
  c10::DeviceIndex device_ = -1;
  std::string on_host_;  // an argument that should be on the device
  bool has_index_of_host_ = false;
  int64_t graph_ = 0;
  Work work_{};
};

const c10::OperatorHandle& copy_operator() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::copy_", "");
  return op;
}

void call_any(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  compute(op, stack);
}

// ---- copies

void copy_numbers(const at::Tensor& self, const at::Tensor& src) {
  at::Tensor to = on_device(self) ? as_cpu(self) : self;
  copy_operator().typed<at::Tensor&(at::Tensor&, const at::Tensor&, bool)>().redispatch(
      kCpu, to, on_device(src) ? as_cpu(src) : src, false);
}

void copy_to_device(const at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  const auto device = self.get_device();
  Block* pinned = pinned_block_of(src);
  const bool is_async = pinned && non_blocking;
  if (!is_async) refuse_in_recording(device, "a copy from pageable memory");
  if (!recording(device)) {
    count("copy: to the device");
    const auto work = begin_work(device);
    touch(block_of(self), work, true, "a copy");
    if (is_async && src.is_contiguous())
      read_pinned(pinned, static_cast<const char*>(src.data_ptr()), src.nbytes(), work);
  }
  copy_numbers(self, src);
  if (!non_blocking) wait_for_stream(device, "copy to the device");
}

void copy_to_host(const at::Tensor& self, const at::Tensor& src) {
  const auto device = src.get_device();
  refuse_in_recording(device, "a copy to the host");
  count("copy: to the host");
  touch(block_of(src), begin_work(device), false, "a copy");
  // even if it is said not to block, as nobody here asks for that into pinned memory
  wait_for_stream(device, "copy to the host");
  copy_numbers(self, src);
}

void copy_on_device(const at::Tensor& self, const at::Tensor& src) {
  const auto device = self.get_device();
  const auto graph = recording(device);
  count_kernel("aten::copy_", graph);
  if (!graph) {
    const auto work = begin_work(device);
    touch(block_of(src), work, false, "a copy");
    touch(block_of(self), work, true, "a copy");
  }
  copy_numbers(self, src);
}

// ---- memory and views, which are no work of the device

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout>, std::optional<c10::Device> device, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), device_allocator(), kCuda,
                                   c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<c10::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return new_tensor(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                    c10::dtype_or_default(dtype));
}

at::Tensor view_of(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                   int64_t offset, caffe2::TypeMeta dtype) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), dtype);
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return view;
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  return view_of(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                 offset ? offset->expect_int() : self.storage_offset(), self.dtype());
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef shape) {
  const auto size = at::infer_size_dv(C10_AS_INTARRAYREF_SLOW(shape), self.numel());
  const auto stride = at::detail::computeStride(self.sizes(), self.strides(), size);
  TORCH_CHECK(stride, "view size is not compatible with input tensor's size and stride");
  return view_of(self, size, *stride, self.storage_offset(), self.dtype());
}

at::Tensor view_as_type(const at::Tensor& self, at::ScalarType dtype) {
  const auto of_cpu = as_cpu(self).view(dtype);
  const auto offset = self.storage_offset() * self.element_size() / of_cpu.element_size();
  return view_of(self, of_cpu.sizes(), of_cpu.strides(), offset, of_cpu.dtype());
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size,
                         c10::SymIntArrayRef stride) {
  return as_strided(self, size, stride, std::nullopt);
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef shape,
                         std::optional<at::MemoryFormat>) {
  const auto size = C10_AS_INTARRAYREF_SLOW(shape);
  if (self.sizes() == size) return self;
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  const size_t n_bytes = (self.numel() + self.storage_offset()) * self.element_size();
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (n_bytes > storage->nbytes()) {
    const c10::DeviceGuard guard(self.device());
    auto data = device_allocator()->allocate(n_bytes);
    if (storage->nbytes()) std::memcpy(data.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(data));
    storage->set_nbytes(n_bytes);
  }
  return self;
}

at::Tensor& set_source(at::Tensor& self, at::Storage source, c10::SymInt offset,
                       c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(source);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset.expect_int());
  return self;
}

at::Scalar local_scalar(const at::Tensor& self) {
  touch(block_of(self), begin_work(self.get_device()), false, "item()");
  count("copy: to the host");
  wait_for_stream(self.get_device(), "item()");
  return as_cpu(self).item();
}

void record_stream(at::Tensor& self, c10::Stream stream) {
  record_on_stream(self.storage().data_ptr(), stream);
}

}  // namespace

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  if (op == copy_operator()) {
    auto self = (*stack)[stack->size() - 3].toTensor();
    copy(self, (*stack)[stack->size() - 2].toTensor(), (*stack)[stack->size() - 1].toBool());
    torch::jit::drop(*stack, 3);
    stack->emplace_back(self);
  } else {
    OneCall(op, stack).run();
  }
}

at::Tensor as_cpu(const at::Tensor& tensor) {
  const auto options = tensor.options().device(at::kCPU).pinned_memory(false);
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {},
                       options);
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const c10::DeviceGuard device(on_device(self) ? self.device() : src.device());
  const auto graph = recording(current_device());
  if (graph) save_before_recorded_call(graph, self);
  if (!on_device(src)) {
    copy_to_device(self, src, non_blocking);
  } else if (!on_device(self)) {
    copy_to_host(self, src);
  } else {
    copy_on_device(self, src);
  }
  if (graph) record_call(graph, copy_operator(), {self, src, non_blocking}, {self});
  return self;
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&call_any>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("view.dtype", &view_as_type);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set_source);
  library.impl("copy_", &copy);
  library.impl("_local_scalar_dense", &local_scalar);
  library.impl("record_stream", &record_stream);
}

// Operators that would be composed of others get a kernel of the device.
void add_kernels(std::vector<std::string> names) {
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__,
                                __LINE__);
  for (const auto& name : names)
    library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&call_any>());
}

TORCH_LIBRARY(simulated_cuda, library) {
  library.def("register_generator(int graph, Generator? generator) -> ()", &register_generator);
  library.def("capture_begin(int graph, str mode) -> ()", [](int64_t graph, std::string mode) {
    capture_begin(graph, mode);
  });
  library.def("capture_end(int graph) -> ()", &capture_end);
  library.def("replay(int graph) -> ()", &replay);
  library.def("drop(int graph) -> ()", &drop);
  library.def("n_recorded(int graph) -> int", &n_recorded);
  library.def("set_limit(int device, int n_bytes) -> ()", &set_limit);
  library.def("needed_bytes(int device) -> int", &needed_bytes);
  library.def("take_faults() -> str[]", &take_faults);
  library.def("take_counts() -> Dict(str, int)", [] {
    c10::Dict<std::string, int64_t> counts;
    for (const auto& [name, n] : take_counts()) counts.insert(name, n);
    return counts;
  });
  library.def("add_kernels(str[] names) -> ()", &add_kernels);
  library.def("set_missing_kernels(str[] names) -> ()", [](std::vector<std::string> names) {
    missing_kernels = {names.begin(), names.end()};
  });
}

}  // namespace simulated
