//! How the output is used: words for the model card.

use crate::float_type::FloatType;

/// The library that loads the output, by the name that hubs know.
pub(crate) const LIBRARY: &str = "transformers";

/// The instructions, in Markdown.
pub(crate) const TEXT: &str = "\
With [transformers](https://huggingface.co/docs/transformers):

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(\"./{output}\")
model = AutoModelForCausalLM.from_pretrained(\"./{output}\", dtype=\"auto\", device_map=\"auto\")
```

With [vLLM](https://docs.vllm.ai) or [SGLang](https://docs.sglang.ai), which serve an OpenAI API:

```sh
vllm serve ./{output}
python -m sglang.launch_server --model-path ./{output}
```
";

/// What the user should know of a level that has less range than the source.
pub(crate) fn less_range(level: FloatType, sources: impl IntoIterator<Item = FloatType>) -> Option<String> {
    let wider = level == FloatType::F16 && sources.into_iter().any(|source| source == FloatType::BF16);
    wider.then(|| {
        "the source is stored in BF16, whose range F16 has not: weights below 6e-5 lose digits, one beyond 65504 ends the run, and activations may overflow where the model is run in F16"
            .into()
    })
}
