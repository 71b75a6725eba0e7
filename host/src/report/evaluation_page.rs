//! What was measured, as a page with plots that needs nothing but itself.

use std::fmt::Write;

use super::{
    evaluation::{figure, rows},
    plots,
};
use crate::{
    evaluate::{Against, Evaluation},
    measure::Measurement,
};

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 820px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .15rem 1.2rem .15rem 0; vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; border: 1px solid #e5e7eb; border-radius: 6px; background: #fff; }
figcaption, footer { opacity: .75; font-size: .9rem; }
";

/// The page.
#[must_use]
pub fn evaluation_page(measurement: &Measurement) -> String {
    let title = escaped(&measurement.subject.name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}: evaluation</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{}</h1>\n",
        escaped(&measurement.subject.source)
    );
    figures(&mut page, measurement);
    let evaluation = &measurement.evaluation;
    match &evaluation.against {
        Some(against) => compared(&mut page, evaluation, against),
        None => alone(&mut page, evaluation),
    }
    if !measurement.warnings.is_empty() {
        page.push_str("<h2>Warnings</h2>\n<ul>\n");
        for warning in &measurement.warnings {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "<li>{}</li>", escaped(warning));
        }
        page.push_str("</ul>\n");
    }
    let _ = write!(
        page,
        "<footer>Measured by qhost {}. Text: SHA-256 of its tokens {}.</footer>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        escaped(&measurement.dataset.sha256)
    );
    page
}

fn figures(page: &mut String, measurement: &Measurement) {
    page.push_str("<table>\n");
    for (name, value) in rows(measurement) {
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(&value));
    }
    page.push_str("</table>\n");
}

fn alone(page: &mut String, evaluation: &Evaluation) {
    let losses: Vec<_> = evaluation.predictions.iter().map(|scored| (scored.context, scored.loss)).collect();
    plot(
        page,
        "Loss by place",
        "Mean loss of predictions by the number of tokens before them in their window; the band is two standard errors.",
        plots::by_context(&losses, "loss, nats"),
    );
}

fn compared(page: &mut String, evaluation: &Evaluation, against: &Against) {
    if let Some(divergence) = &against.divergence {
        plot(
            page,
            "Divergence of predictions",
            "KL divergence of the model from its original, of each prediction. Bars: how many; curve: the share of \
             predictions below, where the height of the highest bar stands for all of them.",
            plots::divergences(&divergence.all, [("median", divergence.median), ("99 %", divergence.p99)]),
        );
    }
    if !against.layers.is_empty() {
        plot(
            page,
            "Hidden states",
            "How far the hidden states after each layer are from those of the original: root mean square of the \
             difference by that of the original.",
            plots::layers(&against.layers),
        );
        page.push_str("<table>\n<tr><th>after layer</th><th>relative error</th><th>cosine</th></tr>\n");
        for (layer, error) in against.layers.iter().enumerate() {
            let _ = writeln!(
                page,
                "<tr><td class=\"number\">{layer}</td><td class=\"number\">{}</td><td class=\"number\">{:.6}</td></tr>",
                figure(error.relative_rms),
                error.cosine
            );
        }
        page.push_str("</table>\n");
    }
    let pairs = evaluation.predictions.iter().zip(&against.losses);
    let differences: Vec<_> = pairs.map(|(scored, original)| (scored.context, scored.loss - original)).collect();
    plot(
        page,
        "Difference of losses by place",
        "Mean loss of the model minus that of its original, by the number of tokens before in the window; the band is \
         two standard errors.",
        plots::by_context(&differences, "difference of losses, nats"),
    );
}

fn plot(page: &mut String, title: &str, caption: &str, drawn: Result<String, plots::Error>) {
    let drawn = drawn.unwrap_or_else(|error| format!("<p>cannot be drawn: {}</p>", escaped(&error.to_string())));
    let _ = write!(
        page,
        "<h2>{title}</h2>\n<figure>\n<div role=\"img\" aria-label=\"{title}\">{drawn}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n"
    );
}

/// A text of somebody else's, as it can stand in a page.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            character if character.is_control() => out.extend(character.escape_default()),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_of_others_bring_no_markup() {
        assert_eq!(super::escaped("<a href='x'>\u{1b}&"), "&lt;a href=&#39;x&#39;&gt;\\u{1b}&amp;");
    }
}
