//! A loaded model: its tokenizer and its logits.
#![expect(unsafe_code, reason = "llama.cpp's models and contexts are C handles")]

use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::ffi::{c_int, c_path, threads};
use crate::{Error, Result, log};

/// A model on the CPU, read into memory and not repacked, so that it computes with the file's blocks.
#[derive(Debug)]
pub struct Model {
    handle: NonNull<sys::llama_model>,
    with_weights: bool,
    threads: usize,
}

// SAFETY: after loading llama.cpp only reads a model, and says that its tokenisation is thread-safe.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

/// Logits of a sequence: one row for each position, of the tokens that may follow it.
#[derive(Debug, Clone)]
pub struct Logits {
    /// All rows, one after the other.
    pub values: Vec<f32>,
    /// The length of a row.
    pub vocabulary: usize,
}

impl Logits {
    /// The rows, in the order of the tokens.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.vocabulary)
    }
}

impl Model {
    /// Loads a model, refusing tensors with values that are not finite.
    ///
    /// # Errors
    /// Fails if llama.cpp cannot load it.
    pub fn load(path: &Path) -> Result<Self> {
        Self::open(path, true)
    }

    /// Loads the vocabulary only; the file needs no weights.
    ///
    /// # Errors
    /// Fails if llama.cpp cannot load it.
    pub fn load_vocabulary(path: &Path) -> Result<Self> {
        Self::open(path, false)
    }

    fn open(path: &Path, with_weights: bool) -> Result<Self> {
        let path_c = c_path(path)?;
        log::recorded(format!("load {}", path.display()), || {
            // SAFETY: takes no arguments.
            let mut params = unsafe { sys::llama_model_default_params() };
            params.n_gpu_layers = 0;
            params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
            params.use_extra_bufts = false;
            params.check_tensors = true;
            params.vocab_only = !with_weights;
            // SAFETY: the path ends in NUL; the pointers among the parameters are the defaults.
            let model = unsafe { sys::llama_model_load_from_file(path_c.as_ptr(), params) };
            NonNull::new(model).map(|handle| Self { handle, with_weights, threads: 1 })
        })
    }

    /// Sets the number of threads that compute logits. It is one at first: ggml's threads wait for
    /// each other by spinning, so that several are slower than one where other work is going on.
    #[must_use]
    pub fn with_threads(mut self, count: usize) -> Self {
        self.threads = count.max(1);
        self
    }

    /// The number of tokens that the vocabulary has.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        // SAFETY: the vocabulary lives as long as the model.
        let count = unsafe { sys::llama_vocab_n_tokens(self.vocabulary()) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Turns text into tokens. `add_special` adds what the model wants at the start and end of a
    /// text; `parse_special` takes names of control tokens for the tokens.
    ///
    /// # Errors
    /// Fails without a tokenizer, and for a text beyond the reach of C's integers.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<i32>> {
        self.need_tokenizer()?;
        // No tokenizer makes more tokens than bytes, except for the special ones and a leading space.
        let mut tokens = vec![0; text.len() + 16];
        loop {
            // SAFETY: text and tokens are as long as told, and the vocabulary lives with the model.
            let count = unsafe {
                sys::llama_tokenize(
                    self.vocabulary(),
                    text.as_ptr().cast(),
                    c_int(text.len())?,
                    tokens.as_mut_ptr(),
                    c_int(tokens.len())?,
                    add_special,
                    parse_special,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    tokens.truncate(count);
                    return Ok(tokens);
                }
                Err(_) if count == i32::MIN => return Err(Error::Length("too much text".to_owned())),
                // A negative count says how many there are.
                Err(_) => tokens.resize(count.unsigned_abs() as usize, 0),
            }
        }
    }

    /// Turns tokens into text. `remove_special` drops what `add_special` adds; `unparse_special`
    /// writes control tokens by name.
    ///
    /// # Errors
    /// Fails without a tokenizer, or if a token is not of the vocabulary.
    pub fn detokenize(&self, tokens: &[i32], remove_special: bool, unparse_special: bool) -> Result<Vec<u8>> {
        self.need_tokenizer()?;
        self.need_known(tokens)?;
        let length = c_int(tokens.len())?;
        grown(|buffer, capacity| {
            // SAFETY: tokens and buffer are as long as told; every token is of the vocabulary.
            unsafe {
                sys::llama_detokenize(
                    self.vocabulary(),
                    tokens.as_ptr(),
                    length,
                    buffer.cast(),
                    capacity,
                    remove_special,
                    unparse_special,
                )
            }
        })
    }

    /// The text of one token; control tokens by name if `special`, else empty.
    ///
    /// # Errors
    /// Fails without a tokenizer, or if the token is not of the vocabulary.
    pub fn piece(&self, token: i32, special: bool) -> Result<Vec<u8>> {
        self.need_tokenizer()?;
        self.need_known(&[token])?;
        grown(|buffer, capacity| {
            // SAFETY: the buffer is as long as told; the token is of the vocabulary.
            unsafe { sys::llama_token_to_piece(self.vocabulary(), token, buffer.cast(), capacity, 0, special) }
        })
    }

    /// The logits at every position of a sequence, which starts with an empty memory.
    ///
    /// Attention is computed with an `f32` memory and without the flash kernels. The rest depends on
    /// the file's types: what is multiplied with BF16 weights is rounded to bf16 first, what is
    /// multiplied with quantised ones to 8 bits. Only a file in F32 comes close to exact arithmetic.
    ///
    /// # Errors
    /// Fails without weights, for an empty sequence, and if llama.cpp does.
    pub fn logits(&self, tokens: &[i32]) -> Result<Logits> {
        let mut values = Vec::with_capacity(tokens.len() * self.vocabulary_size());
        self.context(tokens.len())?.evaluate(tokens, |_, row| values.extend_from_slice(row))?;
        Ok(Logits { values, vocabulary: self.vocabulary_size() })
    }

    /// The token that begins a text, if the model wants one.
    pub(crate) fn begin_of_text(&self) -> Option<i32> {
        // SAFETY: the vocabulary lives as long as the model.
        unsafe { sys::llama_vocab_get_add_bos(self.vocabulary()).then(|| sys::llama_vocab_bos(self.vocabulary())) }
    }

    /// A context for sequences of up to `length` tokens.
    pub(crate) fn context(&self, length: usize) -> Result<Context<'_>> {
        if !self.with_weights {
            return Err(Error::Missing("weights"));
        }
        if length == 0 {
            return Err(Error::Length("a sequence needs at least one token".to_owned()));
        }
        let length_c: u32 = c_int(length)?;
        let context = log::recorded(format!("make a context of {length} tokens"), || {
            // SAFETY: takes no arguments.
            let mut params = unsafe { sys::llama_context_default_params() };
            params.n_ctx = length_c;
            params.n_batch = length_c;
            params.n_ubatch = params.n_ubatch.min(length_c);
            params.n_threads = threads(Some(self.threads));
            params.n_threads_batch = params.n_threads;
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            params.type_k = sys::GGML_TYPE_F32;
            params.type_v = sys::GGML_TYPE_F32;
            params.no_perf = true;
            // SAFETY: the model is valid and outlives the context; the pointers among the
            // parameters are the defaults.
            NonNull::new(unsafe { sys::llama_init_from_model(self.handle.as_ptr(), params) })
        })?;
        Ok(Context { context, model: self })
    }

    fn vocabulary(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is valid.
        unsafe { sys::llama_model_get_vocab(self.handle.as_ptr()) }
    }

    /// llama.cpp aborts when it is asked to tokenise without a tokenizer.
    fn need_tokenizer(&self) -> Result<()> {
        // SAFETY: the vocabulary lives as long as the model.
        let kind = unsafe { sys::llama_vocab_type(self.vocabulary()) };
        if kind == sys::LLAMA_VOCAB_TYPE_NONE { Err(Error::Missing("tokenizer")) } else { Ok(()) }
    }

    fn need_known(&self, tokens: &[i32]) -> Result<()> {
        let size = self.vocabulary_size();
        match tokens.iter().find(|&&token| usize::try_from(token).map_or(true, |token| token >= size)) {
            None => Ok(()),
            Some(token) => Err(Error::Length(format!("token {token} is not among the {size} of the vocabulary"))),
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: made by `llama_model_load_from_file`, freed once, and no context outlives it.
        unsafe { sys::llama_model_free(self.handle.as_ptr()) };
    }
}

/// Memory for one sequence.
pub(crate) struct Context<'a> {
    context: NonNull<sys::llama_context>,
    model: &'a Model,
}

impl Context<'_> {
    /// Calls back with the logits at every position of a new sequence.
    pub(crate) fn evaluate(&mut self, tokens: &[i32], mut each: impl FnMut(usize, &[f32])) -> Result<()> {
        self.decode(tokens)?;
        for position in 0..tokens.len() {
            each(position, self.row(position)?);
        }
        Ok(())
    }

    /// Computes a new sequence, whose logits are then there until the next one.
    pub(crate) fn decode(&mut self, tokens: &[i32]) -> Result<()> {
        self.model.need_known(tokens)?;
        let length: i32 = c_int(tokens.len())?;
        let context = self.context.as_ptr();
        // SAFETY: the context is valid, and so is its memory, which may be null for models without.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(context), true) };
        let batch = Batch::new(tokens, length)?;
        log::recorded(format!("evaluate {length} tokens"), || {
            // SAFETY: the batch is complete and lives for the call.
            let status = unsafe { sys::llama_decode(context, batch.0) };
            (status == 0).then_some(())
        })
    }

    /// The logits at a position of the sequence that was computed last.
    pub(crate) fn row(&self, position: usize) -> Result<&[f32]> {
        // SAFETY: the context is valid; llama.cpp refuses a position that has no logits with a null.
        let row = unsafe { sys::llama_get_logits_ith(self.context.as_ptr(), c_int(position)?) };
        if row.is_null() {
            return Err(Error::Missing("logits at some position"));
        }
        // SAFETY: a row of logits has an entry for every token of the vocabulary, and stays until the
        // next sequence, for which the context has to be borrowed mutably.
        Ok(unsafe { std::slice::from_raw_parts(row, self.model.vocabulary_size()) })
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `llama_init_from_model` and freed once.
        unsafe { sys::llama_free(self.context.as_ptr()) };
    }
}

/// A batch with one sequence, logits wanted everywhere.
struct Batch(sys::llama_batch);

impl Batch {
    fn new(tokens: &[i32], length: i32) -> Result<Self> {
        // SAFETY: allocates arrays for `length` tokens of one sequence each.
        let mut batch = Self(unsafe { sys::llama_batch_init(length, 0, 1) });
        for (index, &token) in tokens.iter().enumerate() {
            // SAFETY: the index is below the length that the arrays were made for, and each inner
            // array of sequences has room for one.
            unsafe {
                *batch.0.token.add(index) = token;
                *batch.0.pos.add(index) = c_int(index)?;
                *batch.0.n_seq_id.add(index) = 1;
                **batch.0.seq_id.add(index) = 0;
                *batch.0.logits.add(index) = 1;
            }
        }
        batch.0.n_tokens = length;
        Ok(batch)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: made by `llama_batch_init` and freed once.
        unsafe { sys::llama_batch_free(self.0) };
    }
}

/// Calls a C function that fills a buffer and returns how much it wrote, or the negated size that it
/// needs.
fn grown(fill: impl Fn(*mut u8, i32) -> i32) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    for _ in 0..2 {
        let written = fill(buffer.as_mut_ptr(), c_int(buffer.len())?);
        let length = written.unsigned_abs() as usize;
        if written >= 0 {
            buffer.truncate(length);
            return Ok(buffer);
        }
        buffer.resize(length, 0);
    }
    Err(Error::Length("llama.cpp asked for a buffer twice".to_owned()))
}
