// sm_90: mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg. A wgmma's results are in its registers at once; that the kernel leaves
// these alone until it has waited is checked by counters of its groups, which are variables of the thread.
#include "emit.h"

namespace emulator {
namespace {

bool is_product(const Instruction& i) {
  return i.mnemonic() == "wgmma" && i.has("mma_async");
}

}  // namespace

// Registers of all products: an instruction before a product in the text may follow it in a loop.
void FunctionEmitter::find_product_registers() {
  auto add = [&](const std::string& operand, bool results) {
    auto [found, is_new] = product_registers_.try_emplace(operand, product_registers_.size());
    if (!is_new) return;
    for (const std::string& name : elements(operand)) products_with_[name].push_back({found->second, results});
  };
  for (const Statement& one : function_.body) {
    if (one.kind != Statement::instruction || !is_product(one.instruction_)) continue;
    const std::vector<std::string>& operands = one.instruction_.operands;
    add(operands.at(0), true);
    if (operands.at(1)[0] == '{') add(operands[1], false);
  }
}

std::string FunctionEmitter::product_variables() const {
  if (product_registers_.empty()) return "";
  size_t n = product_registers_.size();
  return cat("u32 groups = 0, done = 0, used_in[", n, "] = {0}; u8 changed[", n, "]; for (int i = 0; i < ", n,
             "; i++) changed[i] = 1;\n");
}

// What an ordinary instruction means for products that use its registers.
std::string FunctionEmitter::product_checks(const Instruction& i) {
  if (products_with_.empty() || i.mnemonic() == "wgmma" || i.operands.empty()) return "";
  bool stores = one_of(i.mnemonic(), "st red bar barrier mbarrier cp bra setmaxnreg");
  std::string text;
  for (size_t n = 0; n < i.operands.size(); n++)
    for (const std::string& name : elements(i.operands[n])) {
      auto found = products_with_.find(name);
      if (found == products_with_.end()) continue;
      bool writes = n == 0 && !stores;
      for (const auto& [set, results] : found->second) {
        if (!results && !writes) continue;
        text += cat("if (used_in[", set, "] > done && me->check) me->runtime->warpgroup_hazard(me, HAZARD_READ, ", site(i),
                    "); ");
        if (writes) text += cat("changed[", set, "] = 1; ");
      }
    }
  return text;
}

std::string FunctionEmitter::warpgroup(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  if (!i.has("sync") || !i.has("aligned")) unknown(i);
  if (i.has("fence")) {
    count(COUNT_BARRIER);
    return cat("me->runtime->warpgroup_sync(me, ", site(i), "); __builtin_memset(changed, 0, sizeof changed);");
  }
  if (i.has("commit_group")) {
    count(COUNT_BARRIER);
    return cat("me->runtime->warpgroup_commit(me, ", site(i), "); groups++;");
  }
  if (i.has("wait_group")) {
    count(COUNT_BARRIER);
    return cat("{ u32 left = ", read(o.at(0), U32), "; me->runtime->warpgroup_wait(me, left, ", site(i),
               "); if (groups > left && groups - left > done) done = groups - left; }");
  }
  unsigned columns = 0;
  for (const std::string& part : i.parts) sscanf(part.c_str(), "m64n%uk16", &columns);
  if (!columns || columns % 8 || columns > 256 ||
      i.opcode != cat("wgmma.mma_async.sync.aligned.m64n", columns, "k16.f32.bf16.bf16"))
    unknown(i);
  bool a_in_registers = o.at(1)[0] == '{';
  std::vector<std::string> results = elements(o[0]);
  // d, a, b, scale-d, scales of a and b, transposition of a (in shared memory) and b
  if (results.size() != columns / 2 || o.size() != (a_in_registers ? 7 : 8) || o.at(4) != "1" || o.at(5) != "1")
    unknown(i, "operands of");
  if (!a_in_registers && o[6] != "0") unknown(i, "transposition of");
  count(COUNT_MMA, (int)columns / 2);  // 2·64·columns·16 per warpgroup are 16·columns per thread; the unit is 32
  size_t words = columns / 2 + 4;
  most_words_ = std::max(most_words_, (int)words);
  std::string place = site(i), text = "{ ";
  int d = product_registers_.at(o[0]);
  std::string changed = cat("changed[", d, "]"), used = cat("used_in[", d, "] = groups + 1; ");
  if (a_in_registers) {
    int a = product_registers_.at(o[1]);
    changed += cat(" | changed[", a, "]");
    used += cat("used_in[", a, "] = groups + 1; ");
  }
  text += cat("if ((", changed, ") && me->check) me->runtime->warpgroup_hazard(me, HAZARD_FENCE, ", place, "); ", used);
  for (size_t k = 0; k < results.size(); k++) text += cat("words[", k, "] = ", read(results[k], B32), "; ");
  if (a_in_registers) {
    std::vector<std::string> a = elements(o[1]);
    if (a.size() != 4) unknown(i, "operands of");
    for (size_t k = 0; k < 4; k++) text += cat("words[", columns / 2 + k, "] = ", read(a[k], B32), "; ");
  }
  text += cat("static const struct WarpgroupStep step = {", place, ", ", columns, ", ", (int)a_in_registers, ", 0, ",
              o.back(), "}; me->runtime->warpgroup_product(me, &step, ", a_in_registers ? "0" : read(o[1], U64), ", ",
              read(o[2], U64), ", ", read(o[3], PREDICATE), ", words); ");
  for (size_t k = 0; k < results.size(); k++) text += write(results[k], B32, cat("words[", k, "]")) + " ";
  return text + "}";
}

std::string FunctionEmitter::shared_barrier(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  if (space_of(i) != SPACE_SHARED || i.type() != B64) unknown(i);
  count(COUNT_BARRIER);
  if (i.has("init"))
    return cat("me->runtime->mbarrier_init(me, ", address(o.at(0), SPACE_SHARED), ", ", read(o.at(1), U32), ", ", site(i),
               ");");
  if (i.has("arrive")) {
    if (o.at(0) != "_") unknown(i, "result of");
    std::string number = o.size() > 2 ? read(o[2], U32) : "1u";
    return cat("me->runtime->mbarrier_arrive(me, ", address(o.at(1), SPACE_SHARED), ", ",
               i.has("expect_tx") ? cat("1u, ", number) : cat(number, ", 0u"), ", ", site(i), ");");
  }
  if (!i.has("parity") || o.size() != 3) unknown(i);
  return write(o[0], PREDICATE,
               cat("me->runtime->mbarrier_wait(me, ", address(o.at(1), SPACE_SHARED), ", ", read(o[2], U32), ", ",
                   (int)i.has("try_wait"), ", ", site(i), ")"));
}

std::string FunctionEmitter::bulk_copy(const Instruction& i) {
  const std::vector<std::string>& o = i.operands;
  if (i.opcode != "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes" &&
      i.opcode != "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes")
    unknown(i);
  count(COUNT_ASYNC);
  std::vector<std::string> source = split(std::string_view(o.at(1)).substr(1, o[1].size() - 2), ',');
  if (source.size() != 2) unknown(i, "operands of");
  std::vector<std::string> place = elements(source[1]);
  if (place.size() != 2) unknown(i, "operands of");
  return cat("me->runtime->bulk_copy(me, ", address(o[0], SPACE_SHARED), ", ", read(source[0], U64), ", ",
             read(place[0], signed_type(32)), ", ", read(place[1], signed_type(32)), ", ", address(o.at(2), SPACE_SHARED), ", ", site(i), ");");
}

std::string FunctionEmitter::set_registers(const Instruction& i) {
  count(COUNT_BARRIER);
  int registers = atoi(i.operands.at(0).c_str());
  if (registers < 24 || registers > 256 || registers % 8) unknown(i, "operand of");
  return cat("me->runtime->set_registers(me, ", registers, "u, ", site(i), ");");
}

}  // namespace emulator
