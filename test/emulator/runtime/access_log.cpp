#include "access_log.h"

#include <algorithm>
#include <set>

namespace emulator {
namespace {

// A warp's accesses are combined when lanes meet and this many are pending.
constexpr u32 PENDING_LIMIT = 64;

// Thresholds for a report: the factor over the minimum, and the wasted share of the kernel's total traffic.
constexpr double UNCOALESCED_FACTOR = 7.9, BANK_CONFLICT_FACTOR = 7.9, WASTE_OF_WHOLE = 0.25;

std::set<const Site*> reported;  // in this process

}  // namespace

void AccessLog::begin_launch(const ModuleTable* module, u32 warps, u32 threads) {
  logs_ = module->log_count;
  warps_ = warps;
  places_.assign((size_t)threads * logs_, Place());
  sectors_.resize((size_t)warps * logs_);
  banks_.resize((size_t)warps * logs_);
  used_.resize(warps);
  for (auto& list : sectors_) list.clear();
  for (auto& list : banks_) list.clear();
  for (auto& list : used_) list.clear();
  epoch_.assign(warps, 1);
  pending_.assign(warps, 0);
  totals_.assign(logs_, Total());
}

AccessLog::Sectors& AccessLog::new_sectors(u32 warp, int log, u32 number, u64 first) {
  auto& list = sectors_[(size_t)warp * logs_ + (size_t)log];
  if (list.empty()) used_[warp].push_back((u32)log);
  pending_[warp]++;
  list.resize(number + 1);
  list[number] = {first > WINDOW_BEFORE ? first - WINDOW_BEFORE : 0, 0, ~0ull, 0, 0};
  return list[number];
}

AccessLog::Banks& AccessLog::new_banks(u32 warp, int log, u32 number) {
  auto& list = banks_[(size_t)warp * logs_ + (size_t)log];
  if (list.empty()) used_[warp].push_back((u32)log);
  pending_[warp]++;
  list.resize(number + 1);
  return list[number];
}

void AccessLog::add(Total& total, const Sectors& access) {
  if (!access.bytes) return;
  u64 actual = (u64)__builtin_popcountll(access.touched) + access.far;
  total.accesses++;
  total.actual += actual;
  total.ideal += std::min<u64>(actual, (access.bytes + SECTOR - 1) / SECTOR);
}

// A pass serves 32 banks: wide accesses take half or quarter warps at a time. Lanes that access the same word share it.
void AccessLog::add(Total& total, const Banks& access) {
  if (!access.lanes) return;
  u32 words = std::max(1u, access.bytes / BANK_BYTES), lanes_a_pass = LANES / words;
  total.accesses++;
  total.shared = true;
  for (u32 start = 0; start < LANES; start += lanes_a_pass) {
    u32 lanes = access.lanes >> start & (lanes_a_pass == 32 ? ~0u : (1u << lanes_a_pass) - 1);
    if (!lanes) continue;
    u32 wanted[LANES], count = 0, banks = 0;
    bool conflict = false;
    for (; lanes; lanes &= lanes - 1) {
      u32 word = access.word[start + (u32)__builtin_ctz(lanes)];
      for (u32 k = 0; k < words; k++) {
        conflict |= banks >> ((word + k) % BANKS) & 1;
        banks |= 1u << (word + k) % BANKS;
        wanted[count++] = word + k;
      }
    }
    u32 passes = 1;
    if (conflict) {
      std::sort(wanted, wanted + count);
      count = (u32)(std::unique(wanted, wanted + count) - wanted);
      u32 depth[BANKS] = {};
      for (u32 i = 0; i < count; i++) passes = std::max(passes, ++depth[wanted[i] % BANKS]);
    }
    total.actual += passes;
    total.ideal++;
  }
}

// Eight rows of 16 bytes take one pass if together they cover all banks.
void AccessLog::count_rows(const u32* rows, int log) {
  if (log < 0) return;
  u32 depth[BANKS / 4] = {}, passes = 1;
  for (u32 r = 0; r < 8; r++) {
    bool seen = false;
    for (u32 other = 0; other < r; other++) seen |= rows[other] == rows[r];
    if (!seen) passes = std::max(passes, ++depth[rows[r] / 16 % (BANKS / 4)]);
  }
  Total& total = totals_[log];
  total.shared = true;
  total.accesses++;
  total.actual += passes;
  total.ideal++;
}

void AccessLog::flush_warp(u32 warp) {
  for (u32 log : used_[warp]) {
    auto& sectors = sectors_[(size_t)warp * logs_ + log];
    for (const Sectors& access : sectors) add(totals_[log], access);
    sectors.clear();
    auto& banks = banks_[(size_t)warp * logs_ + log];
    for (const Banks& access : banks) add(totals_[log], access);
    banks.clear();
  }
  used_[warp].clear();
  pending_[warp] = 0;
  epoch_[warp]++;
}

void AccessLog::flush() {
  for (u32 warp = 0; warp < warps_; warp++)
    if (pending_[warp]) flush_warp(warp);
}

void AccessLog::warp_converged(u32 warp) {
  if (pending_[warp] >= PENDING_LIMIT) flush_warp(warp);
}

void AccessLog::end_launch(Worker& worker, Counters* totals) {
  flush();
  u64 sectors = 0, passes = 0;
  for (const Total& total : totals_) (total.shared ? passes : sectors) += total.actual;
  for (u32 s = 0; s < worker.module->site_count; s++) {
    const Site& site = worker.module->sites[s];
    if (site.log < 0) continue;
    const Total& total = totals_[site.log];
    if (!total.accesses) continue;
    if (total.shared) {
      totals->shared_accesses += total.accesses;
      totals->shared_passes += total.actual;
    } else {
      totals->sectors += total.actual;
      totals->ideal_sectors += total.ideal;
    }
    double factor = (double)total.actual / (double)total.ideal, whole = (double)(total.shared ? passes : sectors);
    bool wasteful = factor >= (total.shared ? BANK_CONFLICT_FACTOR : UNCOALESCED_FACTOR) &&
                    (double)(total.actual - total.ideal) >= WASTE_OF_WHOLE * whole;
    if (!wasteful || !reported.insert(&site).second) continue;
    char text[300];
    snprintf(text, sizeof text, "kernel %s, %s, %s: %s %.1f times the least possible, over %llu accesses of a warp",
             worker.kernel->name, source_line(site).c_str(), site.opcode,
             total.shared ? "passes over the banks are" : "sectors of memory are", factor, total.accesses);
    report(total.shared ? "bank-conflict" : "uncoalesced", worker.kernel->name, text);
  }
}

}  // namespace emulator
