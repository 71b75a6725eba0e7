//! What a model card says about using a GGUF file.

/// The name by which model hubs know the format's loader.
pub(crate) const LIBRARY: &str = "gguf";

/// The instructions, in Markdown.
pub(crate) const TEXT: &str = "\
With [llama.cpp](https://github.com/ggml-org/llama.cpp):

```sh
llama-cli -m {output} -p \"Once upon a time\"
llama-server -m {output}
```

With [Ollama](https://ollama.com), from a file named `Modelfile` that holds the one line `FROM ./{output}`:

```sh
ollama create my-model -f Modelfile
ollama run my-model
```

In [LM Studio](https://lmstudio.ai), put the file into the models folder, or load it with *Import model*.
";
