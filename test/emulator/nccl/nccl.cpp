// libnccl.so.2 for the emulated GPU: each process of this machine has an emulated GPU of its own, and they meet in a file of
// shared memory named by the group's id. Sends and receives of a group are queued on the stream as one piece of work, which goes
// on until all of them are done. Communicators do not block: joining, and putting a group on the stream, need calls of
// ncclCommGetAsyncError to get on, as the real library needs time. Leaves out collectives and reductions.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../driver/hooks.h"

#define API extern "C" __attribute__((visibility("default")))

namespace emulator::nccl {
namespace {

enum Result {
  success = 0,
  cuda_error = 1,
  system_error = 2,
  internal_error = 3,
  invalid_argument = 4,
  invalid_usage = 5,
  remote_error = 6,
  in_progress = 7,
};

constexpr uint64_t chunk_bytes = 256 * 1024;
constexpr int most_ranks = 64;
constexpr uint32_t magic = 0xcafebeef;
constexpr int version = 22304;
// Seconds without progress after which the ranks are taken to wait for each other forever.
constexpr time_t patience = 60;

// What a rank sends to another, a chunk at a time.
struct Mailbox {
  std::atomic<uint64_t> posted, taken;
  uint64_t message_bytes;  // of the whole message that the chunk belongs to
  uint64_t chunk;
  char bytes[chunk_bytes];
};

struct Shared {
  std::atomic<uint32_t> joined, aborted;
  std::atomic<int32_t> pids[most_ranks];
};

enum class State { joining, ready, queueing, finalized };

struct Message {
  bool sends;
  int peer;
  uint64_t address, bytes;
  void* stream;
};

struct Communicator {
  int rank, size;
  std::string path;
  Shared* shared;
  Mailbox* boxes;  // (sender, receiver)
  uint64_t mapped;
  State state = State::joining;
  std::atomic<int> failure{success};
  bool polled = false;  // since the group was ended
  std::vector<Message> group;
  Mailbox& box(int from, int to) const { return boxes[from * size + to]; }
};

thread_local int depth = 0;
thread_local std::string last_error;

std::set<Communicator*>& communicators() {
  static std::set<Communicator*> live;
  return live;
}

// Those with messages in the group that is open.
std::set<Communicator*>& grouped() {
  static thread_local std::set<Communicator*> open;
  return open;
}

Result fail(Result result, const std::string& text) {
  last_error = text;
  return result;
}

Communicator* find(Communicator* pointer) {
  return communicators().count(pointer) ? pointer : nullptr;
}

// Whether a rank's process is there and the group has not been aborted.
bool alive(const Communicator& c, int rank) {
  const int pid = c.shared->pids[rank].load();
  return !c.shared->aborted.load() && (pid == 0 || kill(pid, 0) == 0 || errno != ESRCH);
}

struct Progress {
  const Message* message;
  uint64_t done = 0;
  bool over(const Communicator& c, uint64_t& moved);
};

// Moves a chunk, if there is one to be moved. True once the message is over.
bool Progress::over(const Communicator& c, uint64_t& moved) {
  const Message& m = *message;
  Mailbox& box = m.sends ? c.box(c.rank, m.peer) : c.box(m.peer, c.rank);
  const bool full = box.posted.load(std::memory_order_acquire) != box.taken.load(std::memory_order_acquire);
  if (m.sends) {
    if (full) return false;
    const uint64_t chunk = m.bytes - done < chunk_bytes ? m.bytes - done : chunk_bytes;
    box.message_bytes = m.bytes;
    box.chunk = chunk;
    memcpy(box.bytes, reinterpret_cast<const char*>(m.address + done), chunk);
    box.posted.fetch_add(1, std::memory_order_release);
    done += chunk;
  } else {
    if (!full) return false;
    if (box.message_bytes != m.bytes) {
      char text[160];
      snprintf(text, sizeof text, "rank %d receives %llu bytes of rank %d, which sends %llu", c.rank,
               (unsigned long long)m.bytes, m.peer, (unsigned long long)box.message_bytes);
      emulator_hook_report("nccl-mismatch", "ncclRecv", text);
      const_cast<Communicator&>(c).failure = invalid_usage;
      return true;
    }
    memcpy(reinterpret_cast<char*>(m.address + done), box.bytes, box.chunk);
    done += box.chunk;
    box.taken.fetch_add(1, std::memory_order_release);
  }
  moved++;
  return done == m.bytes;
}

struct Group {
  Communicator* communicator;
  std::vector<Message>* messages;  // owned by `kept`, as queued work may run again
};

std::vector<std::unique_ptr<std::vector<Message>>>& kept() {
  static std::vector<std::unique_ptr<std::vector<Message>>> all;
  return all;
}

// Messages to, and from, one rank go one after the other; all ranks' at once.
void run(const void* data) {
  const Group& group = *static_cast<const Group*>(data);
  Communicator* c = find(group.communicator);
  if (!c || c->failure) return;
  std::map<std::pair<bool, int>, std::vector<Progress>> queues;
  for (const Message& m : *group.messages) {
    if (!emulator_hook_inside(m.address, m.bytes)) {
      emulator_hook_report("out-of-bounds", m.sends ? "ncclSend" : "ncclRecv", "a buffer does not lie inside one allocation");
      return emulator_hook_fault(700);
    }
    queues[{m.sends, m.peer}].push_back({&m});
  }
  time_t since = time(nullptr);
  for (uint64_t spins = 0; !queues.empty(); spins++) {
    uint64_t moved = 0;
    for (auto queue = queues.begin(); queue != queues.end();) {
      auto& messages = queue->second;
      while (!messages.empty() && messages.front().over(*c, moved)) messages.erase(messages.begin());
      queue = messages.empty() ? queues.erase(queue) : std::next(queue);
    }
    if (c->failure) return;
    if (moved) {
      since = time(nullptr);
      continue;
    }
    sched_yield();
    if (spins % 256) continue;
    for (const auto& [key, messages] : queues)
      if (!alive(*c, key.second)) {
        c->failure = remote_error;
        return;
      }
    if (time(nullptr) - since > patience) {
      emulator_hook_report("nccl-deadlock", "ncclGroupEnd", "no rank gets on: sends and receives do not match");
      c->failure = internal_error;
      return;
    }
  }
  for (const Message& m : *group.messages)
    if (!m.sends) emulator_hook_written(m.address, m.bytes);
}

// Puts the ended group on its stream.
Result put(Communicator& c) {
  auto messages = std::make_unique<std::vector<Message>>(std::move(c.group));
  c.group.clear();
  void* stream = messages->front().stream;
  for (const Message& m : *messages)
    if (m.stream != stream) return fail(invalid_usage, "one group on several streams");
  const Group group = {&c, messages.get()};
  kept().push_back(std::move(messages));
  c.state = State::ready;
  return emulator_hook_submit(stream, "nccl group", run, &group, sizeof group) ? fail(cuda_error, "the stream refuses work")
                                                                              : success;
}

int bytes_of(int type) {
  static const int sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};  // int8 uint8 int32 uint32 int64 uint64 f16 f32 f64 bf16
  return type >= 0 && type < 10 ? sizes[type] : 0;
}

Result add(bool sends, const void* buffer, size_t count, int type, int peer, Communicator* pointer, void* stream) {
  emulator_hook_count(sends ? "ncclSend" : "ncclRecv");
  Communicator* c = find(pointer);
  if (!c) return fail(invalid_argument, "there is no such communicator");
  if (c->state == State::joining) return fail(invalid_usage, "the communicator is not ready");
  if (c->state != State::ready) return fail(invalid_usage, "the communicator's last call is not done");
  if (peer < 0 || peer >= c->size || peer == c->rank) return fail(invalid_argument, "there is no such peer");
  if (!bytes_of(type)) return fail(invalid_argument, "an unknown type");
  if (emulator_hook_capturing(stream)) return fail(invalid_usage, "the stream is being captured");
  if (depth == 0) return fail(invalid_usage, "a message outside of a group");
  if (count == 0) return success;
  c->group.push_back({sends, peer, uint64_t(buffer), count * uint64_t(bytes_of(type)), stream});
  grouped().insert(c);
  return success;
}

void release(Communicator* c) {
  communicators().erase(c);
  grouped().erase(c);
  munmap(c->shared, c->mapped);
  emulator_hook_live("ncclComm", -1);
  delete c;
}

}  // namespace
}  // namespace emulator::nccl

using namespace emulator::nccl;

API int ncclGetVersion(int* result) {
  if (!result) return fail(invalid_argument, "no place for the version");
  *result = version;
  return success;
}

API const char* ncclGetErrorString(int result) {
  switch (result) {
    case success: return "no error";
    case cuda_error: return "unhandled cuda error";
    case system_error: return "unhandled system error";
    case internal_error: return "internal error";
    case invalid_argument: return "invalid argument";
    case invalid_usage: return "invalid usage";
    case remote_error: return "remote process exited or there was a network error";
    case in_progress: return "operation in progress";
    default: return "unknown result code";
  }
}

API const char* ncclGetLastError(void*) { return last_error.c_str(); }

API int ncclGetUniqueId(char* id) {
  if (!id) return fail(invalid_argument, "no place for the id");
  unsigned char random[16];
  const int source = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
  const bool whole = source >= 0 && read(source, random, sizeof random) == ssize_t(sizeof random);
  if (source >= 0) close(source);
  if (!whole) return fail(system_error, "/dev/urandom cannot be read");
  memset(id, 0, 128);
  int at = snprintf(id, 128, "emulated-nccl-");
  for (const unsigned char byte : random) at += snprintf(id + at, size_t(128 - at), "%02x", byte);
  return success;
}

struct Configuration {  // the beginning of ncclConfig_t
  size_t size;
  uint32_t magic, version;
  int blocking;
};

API int ncclCommInitRankScalable(Communicator** out, int size, int rank, int ids, const char* id, const Configuration* config) {
  if (const int status = emulator_hook_status()) return fail(cuda_error, "CUDA status " + std::to_string(status));
  if (!out || !id || ids != 1) return fail(invalid_argument, "one id is needed");
  if (size < 1 || size > most_ranks || rank < 0 || rank >= size) return fail(invalid_argument, "no such rank");
  if (!config || config->magic != magic || config->size < sizeof *config || config->blocking != 0)
    return fail(invalid_argument, "only communicators that do not block are emulated");
  if (strncmp(id, "emulated-nccl-", 14) || memchr(id, '/', 128) || !memchr(id, 0, 128))
    return fail(invalid_argument, "the id was not made by ncclGetUniqueId");
  const std::string path = std::string("/dev/shm/") + id;
  const uint64_t bytes = sizeof(Shared) + 4096 + uint64_t(size) * uint64_t(size) * sizeof(Mailbox);
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, off_t(bytes))) return fail(system_error, path + ": " + strerror(errno));
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (base == MAP_FAILED) return fail(system_error, path + ": " + strerror(errno));
  auto* c = new Communicator{rank, size, path, static_cast<Shared*>(base),
                             reinterpret_cast<Mailbox*>(static_cast<char*>(base) + ((sizeof(Shared) + 4095) & ~4095ul)), bytes};
  c->shared->pids[rank] = getpid();
  c->shared->joined.fetch_add(1);
  communicators().insert(c);
  emulator_hook_live("ncclComm", 1);
  *out = c;
  return in_progress;
}

API int ncclCommGetAsyncError(Communicator* pointer, int* result) {
  Communicator* c = find(pointer);
  if (!c || !result) return fail(invalid_argument, "there is no such communicator");
  *result = success;
  if (c->state == State::joining) {
    if (c->shared->joined.load() < uint32_t(c->size)) {
      if (c->shared->aborted.load()) c->failure = remote_error;
      *result = c->failure ? c->failure.load() : int(in_progress);
      return success;
    }
    unlink(c->path.c_str());  // all have it
    c->state = State::ready;
  } else if (c->state == State::queueing) {
    if (!c->polled) {
      c->polled = true;
      *result = in_progress;
      return success;
    }
    if (const Result status = put(*c)) return status;
  }
  *result = c->failure;
  return success;
}

API int ncclGroupStart() {
  depth++;
  return success;
}

API int ncclGroupEnd() {
  if (depth == 0) return fail(invalid_usage, "no group was started");
  if (--depth > 0) return success;
  bool waits = false;
  for (Communicator* c : grouped()) {
    c->state = State::queueing;
    c->polled = false;
    waits = true;
  }
  grouped().clear();
  return waits ? in_progress : success;
}

API int ncclSend(const void* buffer, size_t count, int type, int peer, Communicator* c, void* stream) {
  return add(true, buffer, count, type, peer, c, stream);
}

API int ncclRecv(void* buffer, size_t count, int type, int peer, Communicator* c, void* stream) {
  return add(false, buffer, count, type, peer, c, stream);
}

API int ncclCommFinalize(Communicator* pointer) {
  Communicator* c = find(pointer);
  if (!c) return fail(invalid_argument, "there is no such communicator");
  if (c->state != State::ready) return fail(invalid_usage, "the communicator's last call is not done");
  c->state = State::finalized;
  return success;
}

API int ncclCommDestroy(Communicator* pointer) {
  Communicator* c = find(pointer);
  if (!c) return fail(invalid_argument, "there is no such communicator");
  release(c);
  return success;
}

API int ncclCommAbort(Communicator* pointer) {
  Communicator* c = find(pointer);
  if (!c) return fail(invalid_argument, "there is no such communicator");
  c->shared->aborted = 1;
  unlink(c->path.c_str());
  release(c);
  return success;
}
