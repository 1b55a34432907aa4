// The calls that a graph has recorded, with the memory and the numbers that they were given then.
#include "simulator.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstring>
#include <map>
#include <memory>

namespace simulated {
namespace {

struct Call {
  c10::OperatorHandle op;
  torch::jit::Stack given;
  std::vector<c10::IValue> results;
};

// Memory from outside of the recording: a graph knows its address and does not keep it alive.
struct Outside {
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;
  const void* data;
};

struct Saved {
  at::Tensor tensor;
  std::string bytes;
};

struct Graph {
  std::vector<Call> calls;
  std::map<const void*, Outside> outside;     // by its storage
  std::map<Block*, Saved> saved;
  std::vector<c10::intrusive_ptr<c10::GeneratorImpl>> generators;
  std::vector<at::Tensor> generator_states;   // from before the recording
  bool is_recorded = false;
};

std::map<int64_t, std::shared_ptr<Graph>> graphs;

std::shared_ptr<Graph> find(int64_t graph) {
  Lock lock(state());
  auto& found = graphs[graph];
  if (!found) found = std::make_shared<Graph>();
  return found;
}

thread_local bool replaying = false;

struct Replaying {
  Replaying() { replaying = true; }
  ~Replaying() { replaying = false; }
};

Generator* as_ours(const c10::intrusive_ptr<c10::GeneratorImpl>& generator) {
  return static_cast<Generator*>(generator.get());
}

at::Tensor as_recorded(int64_t id, Graph& graph, const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  Block* block = tensor.is_cuda() ? block_of(tensor) : pinned_block_of(tensor);
  if (!block) return tensor.clone();  // a number of the host, as it is now
  if (block->graph == id) return tensor;
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  graph.outside.try_emplace(storage, Outside{tensor.storage().getWeakStorageImpl(), block->data});
  auto borrowed = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), storage->nbytes(), borrow(block), nullptr, false);
  auto recorded = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(borrowed), tensor.key_set(), tensor.dtype());
  recorded.unsafeGetTensorImpl()->set_sizes_and_strides(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return recorded;
}

c10::IValue as_recorded(int64_t id, Graph& graph, const c10::IValue& value) {
  if (value.isTensor()) return as_recorded(id, graph, value.toTensor());
  if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (auto& tensor : tensors) tensor = as_recorded(id, graph, tensor);
    return tensors;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList())
      tensors.push_back(tensor ? std::optional(as_recorded(id, graph, *tensor)) : tensor);
    return tensors;
  }
  return value;
}

void put(const at::Tensor& to, const at::Tensor& from) {
  const bool is_other = to.defined() && from.defined() && to.data_ptr() != from.data_ptr();
  if (is_other && to.numel()) as_cpu(to).copy_(as_cpu(from));
}

// What a call has computed belongs where it lay when the call was recorded.
void put_results(const Call& call, const torch::jit::Stack& stack) {
  for (size_t i = 0; i < call.results.size(); i++) {
    const auto& to = call.results[i];
    const auto& from = stack[stack.size() - call.results.size() + i];
    if (to.isTensor()) {
      put(to.toTensor(), from.toTensor());
    } else if (to.isTensorList()) {
      const auto tensors = to.toTensorVector(), computed = from.toTensorVector();
      for (size_t k = 0; k < tensors.size(); k++) put(tensors[k], computed[k]);
    }
  }
}

}  // namespace

bool is_replaying() { return replaying; }

void record_call(int64_t id, const c10::OperatorHandle& op, const torch::jit::Stack& given,
                 const std::vector<c10::IValue>& results) {
  auto graph = find(id);
  Call call{op, {}, results};
  for (const auto& value : given) call.given.push_back(as_recorded(id, *graph, value));
  for (auto& value : call.results) value = as_recorded(id, *graph, value);
  graph->calls.push_back(std::move(call));
}

void save_before_recorded_call(int64_t id, const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return;
  auto graph = find(id);
  auto* block = block_of(tensor);
  if (!block || block->graph == id || graph->saved.count(block)) return;
  graph->saved.emplace(block, Saved{tensor, std::string(block->data, block->n_bytes)});
}

void check_generator(int64_t id, const Generator* generator, const std::string& what) {
  TORCH_CHECK(!generator->is_stuck,
              "Offset increment outside graph capture encountered unexpectedly (simulated): ", what);
  if (!id) return;
  for (const auto& known : find(id)->generators)
    if (known.get() == generator) return;
  refuse_in_recording(generator->device().index(), what + " with a generator that the graph lacks");
}

// ---- for Python, by operators.cpp

void register_generator(int64_t id, const at::Generator& generator) {
  refuse_in_recording(generator.device().index(), "the registration of a generator");
  find(id)->generators.push_back(generator.getIntrusivePtr());
}

void capture_begin(int64_t id, const std::string& mode) {
  auto graph = find(id);
  TORCH_CHECK(!graph->is_recorded, "This CUDAGraph instance already owns a captured graph");
  for (const auto& generator : graph->generators)
    graph->generator_states.emplace_back(generator->get_state());
  begin_recording(id, mode);
}

void capture_end(int64_t id) {
  const std::string spoiled_by = end_recording(id);
  auto graph = find(id);
  // the recording itself has computed nothing
  for (auto& [block, saved] : graph->saved)
    std::memcpy(block->data, saved.bytes.data(), saved.bytes.size());
  for (size_t i = 0; i < graph->generators.size(); i++)
    graph->generators[i]->set_state(*graph->generator_states[i].unsafeGetTensorImpl());
  for (const auto& call : graph->calls)
    for (const auto& value : call.results)
      if (value.isTensor() && value.toTensor().defined()) {
        auto* block = block_of(value.toTensor());
        if (block && block->graph == id) fill_with_nan(block);
      }
  graph->saved.clear();
  graph->generator_states.clear();
  if (!spoiled_by.empty()) {
    for (const auto& generator : graph->generators) as_ours(generator)->is_stuck = true;
    TORCH_CHECK(false, "CUDA error: operation failed due to a previous error during capture "
                "(simulated): ", spoiled_by);
  }
  graph->is_recorded = true;
}

void replay(int64_t id) {
  auto graph = find(id);
  TORCH_CHECK(graph->is_recorded, "Called CUDAGraph::replay without a preceding successful capture");
  refuse_in_recording(current_device(), "the replay of a graph");
  count("replay");
  for (const auto& [_, outside] : graph->outside) {
    const auto alive = outside.storage.lock();
    TORCH_CHECK(alive && alive->data() == outside.data,
                "a graph is replayed whose memory has been freed since it was recorded (simulated)");
  }
  c10::impl::ExcludeDispatchKeyGuard without_autograd(c10::autograd_dispatch_keyset |
      c10::DispatchKeySet(c10::DispatchKey::ADInplaceOrView));
  const Replaying now;
  for (const auto& call : graph->calls) {
    torch::jit::Stack stack = call.given;
    compute(call.op, &stack);
    put_results(call, stack);
  }
}

void drop(int64_t id) {
  std::shared_ptr<Graph> dropped;
  {
    Lock lock(state());
    const auto found = graphs.find(id);
    if (found == graphs.end()) return;
    dropped = found->second;
    graphs.erase(found);
  }
}

int64_t n_recorded(int64_t id) { return find(id)->calls.size(); }

}  // namespace simulated
