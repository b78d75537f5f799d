/** Kernels from forms: a PTX module for the emulated driver, and CUDA source with the same lines for NVIDIA's assembler. */
import { type Form, inputNames, registerWidth, widthOf } from "./form.ts";

/** Size of an input or output in memory, whatever its type. */
export const slotBytes = 8;

export function kernelName(index: number): string {
  return `form_${index}`;
}

/** Register class, and the type that moves it between memory and the register. */
function registerOf(type: string): { readonly kind: string; readonly move: string } {
  const width = registerWidth(type);
  if (type === "f32") return { kind: "f32", move: "f32" };
  if (type === "f64") return { kind: "f64", move: "f64" };
  return { kind: `b${width}`, move: `b${width}` };
}

function substitute(form: Form, input: (i: number) => string, output: (i: number) => string): string {
  return form.code.replace(/\{(d\d*|[a-z])\}/g, (whole, name: string) => {
    if (name[0] === "d") return output(Number(name.slice(1) || 0));
    const index = inputNames.indexOf(name);
    return index < 0 || index >= form.inputs.length ? whole : input(index);
  });
}

/** The PTX between loading the inputs and storing the outputs, in its own scope for the registers it declares. */
function body(form: Form): string {
  return `{\n${substitute(
    form,
    (i) => (form.inputs[i] === "pred" ? `%pi${i}` : `%i${i}`),
    (i) => (form.outputs[i] === "pred" ? `%po${i}` : `%o${i}`),
  )}\n}`;
}

function declarations(form: Form): string[] {
  const one = (side: "i" | "o") => (type: string, i: number) =>
    type === "pred"
      ? [`.reg .pred %p${side}${i};`, `.reg .b32 %${side}${i};`]
      : [`.reg .${registerOf(type).kind} %${side}${i};`];
  return [...form.inputs.flatMap(one("i")), ...form.outputs.flatMap(one("o"))];
}

function kernel(form: Form, index: number): string {
  const loads = form.inputs.flatMap((type, i) =>
    type === "pred"
      ? [`ld.global.b32 %i${i}, [%in+${i * slotBytes}];`, `setp.ne.u32 %pi${i}, %i${i}, 0;`]
      : [`ld.global.${registerOf(type).move} %i${i}, [%in+${i * slotBytes}];`],
  );
  const stores = form.outputs.flatMap((type, i) =>
    type === "pred"
      ? [`selp.u32 %o${i}, 1, 0, %po${i};`, `st.global.b32 [%out+${i * slotBytes}], %o${i};`]
      : [`st.global.${registerOf(type).move} [%out+${i * slotBytes}], %o${i};`],
  );
  return `.visible .entry ${kernelName(index)}(.param .u64 out, .param .u64 in, .param .u32 n)
{
${declarations(form).join("\n")}
.reg .pred %past;
.reg .b32 %index, %count, %block;
.reg .b64 %in, %out;
ld.param.u64 %out, [out];
ld.param.u64 %in, [in];
ld.param.u32 %count, [n];
mov.u32 %index, %tid.x;
mov.u32 %block, %ctaid.x;
mad.lo.u32 %index, %block, ${threadsOf(form)}, %index;
setp.ge.u32 %past, %index, %count;
@%past bra done;
mad.wide.u32 %in, %index, ${form.inputs.length * slotBytes}, %in;
mad.wide.u32 %out, %index, ${form.outputs.length * slotBytes}, %out;
${loads.join("\n")}
${body(form)}
${stores.join("\n")}
done:
ret;
}
`;
}

/** Threads per block: for a warp form each block is one warp. */
export function threadsOf(form: Form): number {
  return form.warp ? 32 : 128;
}

export function ptxModule(forms: readonly Form[]): string {
  return `.version 8.0\n.target sm_80\n.address_size 64\n\n${forms.map(kernel).join("\n")}`;
}

/** Constraint and C type of an operand in inline assembly. */
function constraintOf(type: string): [letter: string, c: string] {
  if (type === "f32") return ["f", "float"];
  if (type === "f64") return ["d", "double"];
  const width = type === "pred" ? 32 : registerWidth(type);
  return width === 16 ? ["h", "unsigned short"] : width === 32 ? ["r", "unsigned"] : ["l", "unsigned long long"];
}

/** The forms' own lines as inline assembly, with which the real compiler checks that they are valid PTX. */
export function cudaSource(forms: readonly Form[]): string {
  return forms
    .map((form, index) => {
      const outputs = form.outputs.length;
      const code = substitute(
        form,
        (i) => (form.inputs[i] === "pred" ? `pi${i}` : `%${outputs + i}`),
        (i) => (form.outputs[i] === "pred" ? `po${i}` : `%${i}`),
      );
      const lines = [
        "{",
        ...form.inputs.flatMap((t, i) =>
          t === "pred" ? [`.reg .pred pi${i};`, `setp.ne.u32 pi${i}, %${outputs + i}, 0;`] : [],
        ),
        ...form.outputs.flatMap((t, i) => (t === "pred" ? [`.reg .pred po${i};`] : [])),
        ...code.replaceAll(/%(?=[a-z])/g, "%%").split("\n"),
        ...form.outputs.flatMap((t, i) => (t === "pred" ? [`selp.u32 %${i}, 1, 0, po${i};`] : [])),
        "}",
      ];
      const variables = [
        ...form.outputs.map((type, i) => `${constraintOf(type)[1]} o${i};`),
        ...form.inputs.map((type, i) => `${constraintOf(type)[1]} i${i} = *(${constraintOf(type)[1]}*)(in + ${i});`),
      ];
      const results = form.outputs.map((type, i) => `"=${constraintOf(type)[0]}"(o${i})`);
      const operands = form.inputs.map((type, i) => `"${constraintOf(type)[0]}"(i${i})`);
      return `extern "C" __global__ void ${kernelName(index)}(unsigned long long* out, unsigned long long* in) {
${variables.join("\n")}
asm volatile(${lines.map((line) => JSON.stringify(`${line}\n`)).join("\n")} : ${results.join(", ")} : ${operands.join(", ")} : "memory");
${form.outputs.map((type, i) => `*(${constraintOf(type)[1]}*)(out + ${i}) = o${i};`).join("\n")}
}`;
    })
    .join("\n\n");
}

/** Opcodes with all their modifiers, as written in PTX: "add.rn.ftz.f32". Labels, directives and braces are excluded. */
export function opcodesOf(ptx: string): Set<string> {
  const found = new Set<string>();
  for (const line of ptx.replace(/\/\/.*/g, "").split(/[\n;]/)) {
    const match = line.match(/^\s*(?:[{}]\s*)*(?:@!?%?\w+\s+)?([a-z]\w*(?:\.[\w:]+)*)(?=\s|$)/);
    const opcode = match?.[1];
    if (opcode !== undefined && !/:$/.test(line.trim())) found.add(opcode);
  }
  return found;
}

/** The opcodes in `form.code`, so that a kernel's own loads and stores do not count as tested. */
export function testedOpcodes(forms: readonly Form[]): Set<string> {
  return new Set(forms.flatMap((form) => [...opcodesOf(form.code)]));
}

export { widthOf };
