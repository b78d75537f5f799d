// The rule of each mnemonic, and the modifiers it supports.
#include "emit.h"

namespace emulator {

struct Rules {
  using F = FunctionEmitter;
  struct Rule {
    std::string (FunctionEmitter::*write)(const Instruction&);
    std::string modifiers;  // the supported ones, types aside
  };
  static const std::map<std::string, Rule>& by_mnemonic();
};

// m64n8k16 to m64n256k16
static std::string product_shapes() {
  std::string shapes;
  for (int columns = 8; columns <= 256; columns += 8) shapes += cat("m64n", columns, "k16 ");
  return shapes;
}

// A modifier that isn't listed with its mnemonic is an error, whatever the rule would have made of the rest.
const std::map<std::string, Rules::Rule>& Rules::by_mnemonic() {
  const std::string directions = "rn rz rm rp";
  const std::string comparisons = "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan";
  const std::string spaces = "global shared shared::cta local const param param::entry param::func";
  const std::string orders = "weak volatile relaxed acquire release cta cluster gpu sys";
  const std::string hints =
      "ca cg cs cv lu wb wt nc L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate "
      "L2::evict_first L2::evict_last L2::evict_normal L2::64B L2::128B L2::256B";
  static const std::map<std::string, Rule> rules = {
      {"add", {&F::arithmetic, directions + " ftz sat cc"}},
      {"sub", {&F::arithmetic, directions + " ftz sat cc"}},
      {"mul", {&F::arithmetic, directions + " ftz sat lo hi wide"}},
      {"mad", {&F::arithmetic, directions + " ftz sat lo hi wide cc"}},
      {"fma", {&F::arithmetic, directions + " ftz sat relu"}},
      {"min", {&F::arithmetic, "ftz NaN"}},
      {"max", {&F::arithmetic, "ftz NaN"}},
      {"abs", {&F::arithmetic, "ftz"}},
      {"neg", {&F::arithmetic, "ftz"}},
      {"mul24", {&F::integer_arithmetic, "lo hi"}},
      {"mad24", {&F::integer_arithmetic, "lo hi"}},
      {"sad", {&F::integer_arithmetic, ""}},
      {"addc", {&F::carry_arithmetic, "cc"}},
      {"subc", {&F::carry_arithmetic, "cc"}},
      {"madc", {&F::carry_arithmetic, "lo hi cc"}},
      {"div", {&F::divide, directions + " ftz approx full"}},
      {"rem", {&F::divide, ""}},
      {"ex2", {&F::approximate, "approx ftz"}},
      {"lg2", {&F::approximate, "approx ftz"}},
      {"sin", {&F::approximate, "approx ftz"}},
      {"cos", {&F::approximate, "approx ftz"}},
      {"tanh", {&F::approximate, "approx ftz"}},
      {"rcp", {&F::approximate, directions + " approx ftz"}},
      {"rsqrt", {&F::approximate, directions + " approx ftz"}},
      {"sqrt", {&F::approximate, directions + " approx ftz"}},
      {"copysign", {&F::copy_sign, ""}},
      {"testp", {&F::test_property, "finite infinite number notanumber normal subnormal"}},
      {"and", {&F::logic, ""}},
      {"or", {&F::logic, ""}},
      {"xor", {&F::logic, ""}},
      {"not", {&F::logic, ""}},
      {"cnot", {&F::logic, ""}},
      {"lop3", {&F::three_input_logic, ""}},
      {"shl", {&F::shift, ""}},
      {"shr", {&F::shift, ""}},
      {"shf", {&F::funnel_shift, "l r clamp wrap"}},
      {"prmt", {&F::permute_bytes, "f4e b4e rc8 ecl ecr rc16"}},
      {"bfe", {&F::bit_field, ""}},
      {"bfi", {&F::bit_field, ""}},
      {"bmsk", {&F::bit_field, "clamp wrap"}},
      {"popc", {&F::bit_count, ""}},
      {"clz", {&F::bit_count, ""}},
      {"brev", {&F::bit_count, ""}},
      {"bfind", {&F::bit_count, "shiftamt"}},
      {"dp4a", {&F::dot_product, ""}},
      {"mov", {&F::move, ""}},
      {"cvt", {&F::convert, directions + " rna rni rzi rmi rpi ftz sat relu"}},
      {"cvta", {&F::convert_address, "to global shared shared::cta local const param"}},
      {"isspacep", {&F::is_in_space, "global shared shared::cta local"}},
      {"setp", {&F::compare, comparisons + " and or xor ftz"}},
      {"set", {&F::set_value, comparisons + " ftz"}},
      {"selp", {&F::select, ""}},
      {"slct", {&F::select_by_sign, "ftz"}},
      {"ld", {&F::load, spaces + " " + orders + " " + hints + " v2 v4 v8"}},
      {"ldu", {&F::load, spaces + " " + orders + " " + hints + " v2 v4 v8"}},
      {"st", {&F::store, spaces + " " + orders + " " + hints + " v2 v4 v8"}},
      {"atom",
       {&F::atomic,
        "global shared shared::cta relaxed acquire release acq_rel cta cluster gpu sys noftz add and or xor cas exch "
        "min max inc dec"}},
      {"red",
       {&F::atomic,
        "global shared shared::cta relaxed acquire release acq_rel cta cluster gpu sys noftz add and or xor cas exch "
        "min max inc dec"}},
      {"cp",
       {&F::async_copy,
        "async ca cg global shared shared::cta L2::64B L2::128B L2::256B commit_group wait_group wait_all bulk tensor 2d "
        "shared::cluster tile mbarrier::complete_tx::bytes"}},
      {"mbarrier", {&F::shared_barrier, "init arrive expect_tx try_wait test_wait parity shared shared::cta"}},
      {"wgmma", {&F::warpgroup, "fence commit_group wait_group mma_async sync aligned " + product_shapes()}},
      {"setmaxnreg", {&F::set_registers, "inc dec sync aligned"}},
      {"membar", {&F::fence, "cta gl sys"}},
      {"fence", {&F::fence, "sc acq_rel acquire release cta cluster gpu sys proxy async shared::cta"}},
      {"prefetch", {&F::nothing, "global local L1 L2 L2::evict_last L2::evict_normal"}},
      {"prefetchu", {&F::nothing, "L1"}},
      {"nanosleep", {&F::sleep, ""}},
      {"bar", {&F::barrier, "sync arrive red cta warp popc and or"}},
      {"barrier", {&F::barrier, "sync arrive red cta aligned popc and or"}},
      {"shfl", {&F::shuffle, "sync up down bfly idx"}},
      {"vote", {&F::vote, "sync all any uni ballot"}},
      {"match", {&F::match, "sync any all"}},
      {"redux", {&F::redux, "sync add and or xor min max"}},
      {"activemask", {&F::active_mask, ""}},
      {"ldmatrix", {&F::load_matrix, "sync aligned m8n8 x1 x2 x4 trans shared shared::cta"}},
      {"mma", {&F::multiply_matrices, "sync aligned m16n8k4 m16n8k8 m16n8k16 row col"}},
      {"bra", {&F::branch, "uni"}},
      {"brx", {&F::indexed_branch, "idx uni"}},
      {"call", {&F::call, "uni"}},
      {"ret", {&F::leave, "uni"}},
      {"exit", {&F::leave, ""}},
      {"trap", {&F::trap, ""}},
      {"brkpt", {&F::trap, ""}},
  };
  return rules;
}

std::string FunctionEmitter::translate(const Instruction& instruction) {
  auto rule = Rules::by_mnemonic().find(instruction.mnemonic());
  if (rule == Rules::by_mnemonic().end()) unknown(instruction);
  for (size_t i = 1; i < instruction.parts.size(); i++) {
    const std::string& part = instruction.parts[i];
    if (parse_type(part).kind == Type::none && !one_of(part, rule->second.modifiers)) unknown(instruction);
  }
  return (this->*rule->second.write)(instruction);
}

}  // namespace emulator
