//! Putting anybody's text into Markdown so that it stays text.

/// Text between other text: on one line, with every sign escaped that could begin markup.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        if r"\`*_{}[]<>#|~&!".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// A code span, also in a table.
pub(super) fn code(text: &str) -> String {
    let text = one_line(text);
    // A vertical bar ends a table's cell even in a code span, and there is no escape outside of tables.
    let text = text.replace('|', "¦");
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if text.starts_with('`') || text.ends_with('`') || text.trim().is_empty() { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// A block of a shell's commands, which a line of the text cannot end.
pub(super) fn shell(command: &str) -> String {
    format!("```sh\n{}\n```\n", one_line(command).replace("```", "'''"))
}

/// Line breaks become spaces, and other control characters go.
pub(super) fn one_line(text: &str) -> String {
    let spaced = text.chars().map(|character| if character.is_whitespace() { ' ' } else { character });
    spaced.filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(plain("a_b <script>\n# x"), r"a\_b \<script\> \# x");
        assert_eq!(plain("[x](http://y) ![z] | &lt;"), r"\[x\](http://y) \!\[z\] \| \&lt;");
        assert_eq!(plain("\u{1b}[31mred"), r"\[31mred");
    }

    #[test]
    fn code_ends_where_it_should() {
        assert_eq!(code("Q4_K"), "`Q4_K`");
        assert_eq!(code("a`b"), "``a`b``");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(code("a|b\nc"), "`a¦b c`");
        assert_eq!(shell("a\n```\nb"), "```sh\na ''' b\n```\n");
    }
}
