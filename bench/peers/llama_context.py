"""llama.cpp's batched decoding by ids, through the C interface that llama-cpp-python declares."""
import ctypes, sys

import llama_cpp
import numpy

BATCH, PHYSICAL_BATCH = 2048, 512  # tokens of one call, and of one pass: llama.cpp's defaults
GGML_TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}  # enum ggml_type
GGML_LOG_LEVEL_ERROR = 4


@llama_cpp.llama_log_callback
def log_errors(level, text, _):
    if level == GGML_LOG_LEVEL_ERROR:
        sys.stderr.write(text.decode(errors="replace"))


llama_cpp.llama_log_set(log_errors, None)


class Context:
    """A model of a GGUF file and a cache of keys and values for `sequences` sequences of at most `length` tokens each.

    Every sequence has a cache of its own ("streams"), so that none attends over the others' cells. Keys and values are kept in
    `dtype`; attention is by llama.cpp's flash kernel where it has one, unless `flash` is false.
    """

    def __init__(self, path, sequences, length, threads, dtype, flash=True):
        if sequences > llama_cpp.llama_max_parallel_sequences():
            limit = llama_cpp.llama_max_parallel_sequences()
            raise ValueError(f"llama.cpp decodes at most {limit} sequences at a time, not {sequences}")
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{path}: llama.cpp does not load it")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = sequences * length, sequences, False
        params.n_batch, params.n_ubatch = BATCH, PHYSICAL_BATCH
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = GGML_TYPES[dtype]
        if not flash:
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"{path}: llama.cpp makes no context for {sequences} sequences of {length} tokens")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def decode(self, rows):
        """Computes rows of (token, position, sequence, whether its logits are wanted), and waits for them."""
        for begin in range(0, len(rows), BATCH):
            part, batch = rows[begin : begin + BATCH], self.batch
            batch.n_tokens = len(part)
            for i, (token, position, sequence, logits) in enumerate(part):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            status = llama_cpp.llama_decode(self.context, batch)
            if status != 0:
                raise RuntimeError(f"llama_decode gave {status} for {len(part)} tokens")
            llama_cpp.llama_synchronize(self.context)

    def copy(self, source, target):
        """Gives the sequence `target` the tokens of `source`; llama.cpp copies the cache when it decodes next."""
        llama_cpp.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def logits(self, row):
        """Logits of a row of the last batch, float32 [vocabulary]."""
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return numpy.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self.vocabulary,)).copy()

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)
