//! Tests that compare the GGUF plugin with llama.cpp itself; nothing else lives here.
//!
//! They are apart from the plugin's own tests because they build llama.cpp, which needs cmake,
//! libclang and minutes.
