//! Growth as a drawing: a panel for what a span costs, one for questions, one for starts.

use std::fmt::Write as _;

use super::{Point, Report};

const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 220.0;
/// Around the area of a panel: for its title, numbers and the names of sizes.
const MARGIN: f64 = 46.0;
const COLOURS: [&str; 6] = ["#1b6ca8", "#c8553d", "#588b3f", "#8b5fa8", "#b08900", "#555555"];

/// A line of a panel: its name, and a value for each size.
struct Line {
    name: String,
    values: Vec<f64>,
}

/// Draws the report as SVG. Sizes are on a scale of powers, values begin at nothing.
pub fn svg(report: &Report) -> String {
    let points = &report.points;
    let line = |name: &str, of: &dyn Fn(&Point) -> f64| Line {
        name: name.to_owned(),
        values: points.iter().map(of).collect(),
    };
    let seconds = |cpu: Option<f64>| cpu.unwrap_or_default();
    let spans =
        [line("server", &|point| seconds(point.cpu.server)), line("PostgreSQL", &|point| seconds(point.cpu.postgres))];
    let kinds = points.first().map_or(0, |point| point.questions.len());
    let questions: Vec<Line> = (0..kinds)
        .map(|kind| Line {
            name: format!("{}, p50", points[0].questions[kind].kind),
            values: points.iter().map(|point| point.questions[kind].took.p50_ms).collect(),
        })
        .collect();
    let starts = [line("start to ready, p50", &|point| point.start.p50_ms)];
    let sizes: Vec<u64> = points.iter().map(|point| point.spans).collect();
    let panels = [
        panel("CPU seconds per million spans", &sizes, &spans),
        panel("milliseconds of a question", &sizes, &questions),
        panel("milliseconds of a start", &sizes, &starts),
    ];
    let (width, height) = (WIDTH * panels.len() as f64, HEIGHT + 120.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let at = WIDTH * number as f64;
        writeln!(svg, "<g transform=\"translate({at} 0)\">\n{panel}</g>").unwrap_or_default();
    }
    svg + "</svg>\n"
}

fn panel(title: &str, sizes: &[u64], lines: &[Line]) -> String {
    let most = lines.iter().flat_map(|line| &line.values).copied().fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let (least, span) = scale(sizes);
    let x = |size: u64| MARGIN + ((size.max(1) as f64).ln() - least) / span * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| MARGIN + (1.0 - value / most) * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!("<text x=\"{MARGIN}\" y=\"20\" font-weight=\"bold\">{title}</text>\n");
    for share in [0.0, 0.5, 1.0] {
        let at = y(most * share);
        writeln!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - MARGIN,
            MARGIN - 4.0,
            at + 4.0,
            number(most * share)
        )
        .unwrap_or_default();
    }
    for size in sizes {
        let below = HEIGHT - MARGIN + 16.0;
        writeln!(svg, "<text x=\"{:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", x(*size), short(*size))
            .unwrap_or_default();
    }
    for (place, line) in lines.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let points: Vec<String> =
            sizes.iter().zip(&line.values).map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value))).collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        )
        .unwrap_or_default();
        let values: Vec<String> = line.values.iter().map(|value| number(*value)).collect();
        let at = HEIGHT - 6.0 + 18.0 * place as f64;
        writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{at}\">{}: {}</text>",
            at - 9.0,
            MARGIN + 16.0,
            line.name,
            values.join(", ")
        )
        .unwrap_or_default();
    }
    svg
}

/// The logarithm of the least size, and how far it is from there to the largest.
fn scale(sizes: &[u64]) -> (f64, f64) {
    let logarithm = |size: Option<&u64>| size.map_or(0.0, |size| (*size).max(1) as f64).max(1.0).ln();
    let (least, most) = (logarithm(sizes.iter().min()), logarithm(sizes.iter().max()));
    (least, (most - least).max(1e-9))
}

fn number(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn short(size: u64) -> String {
    match size {
        millions if millions >= 1_000_000 => format!("{} M", number(millions as f64 / 1e6)),
        thousands if thousands >= 1000 => format!("{} k", number(thousands as f64 / 1e3)),
        few => few.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_sizes_are_where_their_scales_say() {
        let lines = [Line { name: "one".to_owned(), values: vec![0.0, 2.0, 4.0] }];
        let drawn = panel("title", &[10_000, 100_000, 1_000_000], &lines);
        assert!(drawn.contains("46.0,174.0 190.0,110.0 334.0,46.0"), "{drawn}");
        assert!(
            drawn.contains(">10 k<") && drawn.contains(">1.0 M<") && drawn.contains("one: 0.0, 2.0, 4.0"),
            "{drawn}"
        );
        assert!(!panel("alone", &[5], &[Line { name: "x".to_owned(), values: vec![0.0] }]).contains("NaN"));
    }
}
