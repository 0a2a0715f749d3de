//! Draws the chart of a result: each comparison's rates per side and the ratio, with spread.

use crate::report::{Comparison, Report};
use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};
use std::path::Path;

const WIDTH: u32 = 880;
/// Height of the title.
const HEAD: u32 = 44;
/// Height per comparison: its name, two bars, the ratio.
const ROW: u32 = 118;
const INK: RGBColor = RGBColor(32, 38, 46);
const A: RGBColor = RGBColor(38, 110, 178);
const B: RGBColor = RGBColor(160, 168, 178);
/// Start of the bars and length of the longest, in pixels.
const LEFT: i32 = 24;
const LONGEST: f64 = 520.0;

/// Draws `<stem>.svg` and `<stem>.png`.
pub fn draw(report: &Report, stem: &Path) -> Result<()> {
    // A repeated registration replaces the font.
    register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| anyhow!("the font cannot be loaded"))?;
    let mut rows: Vec<(String, &Comparison)> = vec![(report.name.clone(), &report.main)];
    rows.extend(report.also.iter().map(|(name, comparison)| (name.clone(), comparison)));
    let height = HEAD + ROW * u32::try_from(rows.len())?;
    let (svg, png) = (stem.with_extension("svg"), stem.with_extension("png"));
    all(report, &rows, &SVGBackend::new(&svg, (WIDTH, height)).into_drawing_area())?;
    all(report, &rows, &BitMapBackend::new(&png, (WIDTH, height)).into_drawing_area())
}

fn all<D: DrawingBackend>(
    report: &Report,
    rows: &[(String, &Comparison)],
    area: &DrawingArea<D, Shift>,
) -> Result<()> {
    let fail = |error: DrawingAreaErrorKind<D::ErrorType>| anyhow!("the chart cannot be drawn: {error}");
    area.fill(&WHITE).map_err(fail)?;
    let title = format!(
        "{}: {} rounds, {} cores, commit {}",
        report.name, report.rounds, report.machine.cores, report.versions.commit
    );
    area.draw(&Text::new(title, (LEFT, 14), ("sans-serif", 17).into_font().color(&INK))).map_err(fail)?;
    let mut top = i32::try_from(HEAD)?;
    for (name, comparison) in rows {
        row(name, comparison, top, area).map_err(fail)?;
        top += i32::try_from(ROW)?;
    }
    area.present().map_err(fail)
}

fn row<D: DrawingBackend>(
    name: &str,
    comparison: &Comparison,
    top: i32,
    area: &DrawingArea<D, Shift>,
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    let text = |label: String, at: (i32, i32), size: i32| {
        area.draw(&Text::new(label, at, ("sans-serif", size).into_font().color(&INK)))
    };
    let ratio = comparison.ratio;
    let label = format!("{name}: ratio {:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max);
    text(label, (LEFT, top), 15)?;
    let most = comparison.a.per_s_spread[1].max(comparison.b.per_s_spread[1]).max(f64::EPSILON);
    let length = |per_s: f64| (per_s / most * LONGEST) as i32;
    for (n, (side, colour)) in (0..).zip([(&comparison.a, A), (&comparison.b, B)]) {
        let y = top + 24 + n * 42;
        text(side.what.clone(), (LEFT, y), 12)?;
        let bar = [(LEFT, y + 16), (LEFT + length(side.per_s).max(1), y + 32)];
        area.draw(&Rectangle::new(bar, colour.filled()))?;
        // From the lowest to the highest round.
        let [low, high] = side.per_s_spread.map(length);
        area.draw(&PathElement::new(vec![(LEFT + low, y + 24), (LEFT + high, y + 24)], INK.stroke_width(2)))?;
        let figure = format!("{}/s", crate::sample::round(side.per_s));
        text(figure, (LEFT + high.max(length(side.per_s)) + 10, y + 18), 13)?;
    }
    Ok(())
}
