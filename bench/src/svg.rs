//! A plot of a run: for each unit a panel of bars, medians with their spread.

use std::fmt::Write as _;

/// One bar: name, median, lowest, highest.
pub(crate) struct Point<'a> {
    pub(crate) name: &'a str,
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

const WIDTH: f64 = 900.0;
/// Where bars begin, after their names.
const LEFT: f64 = 340.0;
const RIGHT: f64 = 90.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 34.0;

/// The plot, from panels of (unit, bars).
pub(crate) fn plot(title: &str, panels: &[(&str, Vec<Point<'_>>)]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
    let rows = |panel: &(&str, Vec<Point<'_>>)| HEAD + ROW * panel.1.len() as f64;
    let height = 30.0 + panels.iter().map(rows).sum::<f64>();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"15\">{}</text>",
        escape(title)
    );
    let mut top = 30.0;
    for panel in panels {
        panel_at(&mut out, top, panel);
        top += rows(panel);
    }
    out + "</svg>\n"
}

fn panel_at(out: &mut String, top: f64, (unit, points): &(&str, Vec<Point<'_>>)) {
    let most = points.iter().map(|point| point.highest).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value.max(0.0) / most;
    let _ = writeln!(out, "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{}</text>", top + 22.0, escape(unit));
    let mut y = top + HEAD;
    for point in points {
        let middle = y + ROW / 2.0;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"#4c78a8\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{:.4}</text>",
            LEFT - 8.0,
            middle + 4.0,
            escape(point.name),
            y + 3.0,
            x(point.median) - LEFT,
            ROW - 6.0,
            x(point.lowest),
            x(point.highest),
            x(point.highest) + 6.0,
            middle + 4.0,
            point.median,
        );
        y += ROW;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_within_the_picture() {
        let points = vec![
            Point { name: "a < b", median: 2.0, lowest: 1.0, highest: 4.0 },
            Point { name: "nothing", median: 0.0, lowest: 0.0, highest: 0.0 },
        ];
        let text = plot("run & machine", &[("ms", points)]);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
        assert!(text.contains("a &lt; b") && text.contains("run &amp; machine"));
        let widths = text.split("width=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse().ok());
        assert!(widths.map(|width: f64| width).all(|width| width <= WIDTH));
    }
}
