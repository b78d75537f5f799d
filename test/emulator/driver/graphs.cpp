// Graphs made by capture, their executable copies, and replay. Nodes run in an order that their dependencies allow: in eager
// mode the order of capture, in lazy mode the latest captured first, so that a missing dependency shows.
#include <algorithm>
#include <unordered_map>

#include "driver.h"

namespace emulator::driver {

namespace {

struct Executable {
  std::shared_ptr<const Graph> graph;
  std::shared_ptr<const Operation> operation;  // the whole graph as one piece of work
  Point last;                                  // a graph never runs concurrently with itself
};

std::unordered_map<Handle, std::shared_ptr<Graph>> graphs;
std::unordered_map<Handle, std::shared_ptr<Executable>> executables;

void replay(const Graph& graph) {
  const auto& nodes = graph.nodes;
  std::vector<size_t> missing(nodes.size());
  std::vector<std::vector<uint32_t>> dependents(nodes.size());
  std::vector<uint32_t> ready;
  for (uint32_t i = 0; i < nodes.size(); i++) {
    missing[i] = nodes[i].dependencies.size();
    for (const uint32_t dependency : nodes[i].dependencies) dependents[dependency].push_back(i);
    if (!missing[i]) ready.push_back(i);
  }
  while (!ready.empty() && !context().sticky) {
    const auto next = driver_settings().lazy ? std::max_element(ready.begin(), ready.end())
                                             : std::min_element(ready.begin(), ready.end());
    const uint32_t node = *next;
    ready.erase(next);
    if (nodes[node].operation->run) nodes[node].operation->run();
    for (const uint32_t dependent : dependents[node])
      if (!--missing[dependent]) ready.push_back(dependent);
  }
}

// A pinned buffer that the graph itself fills and then reads does not restrict the host.
std::shared_ptr<Operation> whole(const std::shared_ptr<const Graph>& graph) {
  auto operation = std::make_shared<Operation>();
  operation->type = NodeType::graph;
  operation->name = "a graph's copy";
  for (const Node& node : graph->nodes) {
    operation->more_sources.push_back(node.operation->host_source);
    operation->more_targets.push_back(node.operation->host_target);
    const Operation& inner = *node.operation;
    operation->more_sources.insert(operation->more_sources.end(), inner.more_sources.begin(), inner.more_sources.end());
    operation->more_targets.insert(operation->more_targets.end(), inner.more_targets.begin(), inner.more_targets.end());
  }
  std::erase_if(operation->more_sources, [&](const Range& source) {
    return std::any_of(operation->more_targets.begin(), operation->more_targets.end(),
                       [&](const Range& target) { return target.overlaps(source); });
  });
  operation->run = [graph] { replay(*graph); };
  return operation;
}

}  // namespace

Handle register_graph(std::shared_ptr<Graph> graph) {
  for (size_t i = 0; i < graph->nodes.size(); i++) graph->handles.push_back(std::make_unique<char>());
  const Handle handle = graph.get();
  graphs[handle] = std::move(graph);
  return handle;
}

void count_graphs(LiveObjects* live) {
  live->graphs = graphs.size();
  live->executables = executables.size();
}

void clear_graphs() {
  graphs.clear();
  executables.clear();
}

}  // namespace emulator::driver

using namespace emulator::driver;

API int cuGraphInstantiateWithFlags(Handle* handle, Handle graph_handle, uint64_t flags) {
  BEGIN_CALL(Needs::context);
  const auto graph = graphs.find(graph_handle);
  if (graph == graphs.end() || !handle || flags & ~15ull) return invalid_value;
  if (const Status status = forbid_capture()) return status;
  auto executable = std::make_shared<Executable>();
  executable->graph = graph->second;
  executable->operation = whole(graph->second);
  *handle = executable.get();
  executables[executable.get()] = std::move(executable);
  return success;
}

API int cuGraphLaunch(Handle handle, Handle stream_handle) {
  BEGIN_CALL(Needs::context);
  const auto found = executables.find(handle);
  if (found == executables.end()) return invalid_value;
  const auto stream = find_stream(stream_handle);
  if (!stream) return invalid_handle;
  Executable& executable = *found->second;
  std::vector<Point> after;
  if (executable.last.stream && !stream->capture) after.push_back(executable.last);
  const Status status = submit(stream, executable.operation, std::move(after));
  if (!status && !stream->capture) executable.last = {stream, stream->submitted};
  return status;
}

API int cuGraphUpload(Handle handle, Handle stream) {
  BEGIN_CALL(Needs::context);
  if (!executables.contains(handle)) return invalid_value;
  return find_stream(stream) ? success : invalid_handle;
}

API int cuGraphExecDestroy(Handle handle) {
  BEGIN_CALL(Needs::context);
  return executables.erase(handle) ? success : invalid_value;
}

API int cuGraphDestroy(Handle handle) {
  BEGIN_CALL(Needs::context);
  return graphs.erase(handle) ? success : invalid_value;
}

API int cuGraphGetNodes(Handle handle, Handle* nodes, size_t* count) {
  BEGIN_CALL(Needs::context);
  const auto found = graphs.find(handle);
  if (found == graphs.end() || !count) return invalid_value;
  const auto& handles = found->second->handles;
  if (nodes) {
    for (size_t i = 0; i < *count; i++) nodes[i] = i < handles.size() ? handles[i].get() : nullptr;
    *count = std::min(*count, handles.size());
  } else {
    *count = handles.size();
  }
  return success;
}

API int cuGraphNodeGetType(Handle handle, int* type) {
  BEGIN_CALL(Needs::context);
  if (!type) return invalid_value;
  for (const auto& [_, graph] : graphs) {
    for (size_t i = 0; i < graph->handles.size(); i++) {
      if (graph->handles[i].get() != handle) continue;
      *type = int(graph->nodes[i].operation->type);
      return success;
    }
  }
  return invalid_value;
}
