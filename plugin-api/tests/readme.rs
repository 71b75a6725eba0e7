//! README.md shows the example that is compiled and tested, to the letter.

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let readme = include_str!("../README.md").replace("\r\n", "\n");
    let example = include_str!("../examples/half.rs").replace("\r\n", "\n");
    let shown = format!("```rust\n{example}```\n");
    assert!(readme.contains(&shown), "copy examples/half.rs into README.md");
}
