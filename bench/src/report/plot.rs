//! Plots as SVG.

use super::markup::Markup;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
/// Around the plot, for what stands at its axes.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Lines of a plot that can be told from each other.
pub const LINES_MAX: usize = 8;

/// How values lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// Evenly by their logarithms.
    Log,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    title: &'static str,
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
}

/// A line of a plot.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// What it is of.
    pub name: &'a str,
    /// Its points, with what each tells.
    pub points: Vec<(f64, f64, String)>,
}

impl Axis {
    /// From 0, or from where the values begin on a logarithmic one, to where they end.
    pub fn of(title: &'static str, scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let good = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (mut from, mut to) = values.filter(good).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        if from > to {
            (from, to) = (1.0, 10.0);
        }
        let ticks = match scale {
            Scale::Linear => {
                from = 0.0;
                let step = step_of(to.max(1e-9));
                let steps = (to / step).ceil().max(1.0);
                to = steps * step;
                (0..=steps as u32).map(|n| f64::from(n) * step).map(|at| (at, number(at))).collect()
            }
            Scale::Log => {
                (from, to) = (1e1_f64.powf(from.log10().floor()), 1e1_f64.powf(to.log10().ceil()));
                if to <= from {
                    to = from * 10.0;
                }
                let decades = (to / from).log10().round() as i32;
                let marks: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let begin = from.log10().round() as i32;
                let all = (0..=decades).flat_map(|n| marks.iter().map(move |mark| mark * 1e1_f64.powi(begin + n)));
                all.filter(|&at| at <= to * 1.000_001).map(|at| (at, number(at))).collect()
            }
        };
        Self { title, scale, from, to, ticks }
    }

    /// Of parts of all requests, as one in so many: 50%, 90%, 99% and so on lie evenly.
    pub fn of_percentiles(title: &'static str, most: f64) -> Self {
        let mut ticks = vec![(1.0, "0%".to_owned()), (2.0, "50%".to_owned()), (10.0, "90%".to_owned())];
        for nines in 2..=7_u8 {
            let at = 1e1_f64.powi(nines.into());
            let percent = format!("{:.*}%", usize::from(nines - 2), 100.0 - 100.0 / at);
            ticks.push((at, percent));
        }
        ticks.retain(|&(at, _)| at <= most * 1.5);
        Self { title, scale: Scale::Log, from: 1.0, to: most.max(100.0), ticks }
    }

    /// Where a value lies, 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => (value.max(f64::MIN_POSITIVE) / self.from).log10() / (self.to / self.from).log10(),
        };
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// A round step of which about five make `to`.
fn step_of(to: f64) -> f64 {
    let raw = to / 5.0;
    let unit = 1e1_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * unit).find(|step| *step >= raw * 0.999).unwrap_or(unit * 10.0)
}

/// A number of an axis: short, and not longer than it is exact.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e6 => format!("{} M", trimmed(value / 1e6)),
        size if size >= 1e4 => format!("{} k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn round(at: f64) -> f64 {
    (at * 10.0).round() / 10.0
}

/// Draws lines, [`LINES_MAX`] at most, and names them.
pub fn chart(out: &mut Markup, title: &str, x: &Axis, y: &Axis, lines: &[Line<'_>]) {
    let (across, up) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |value: f64| round(LEFT + across * x.place(value));
    let at_y = |value: f64| round(TOP + up * (1.0 - y.place(value)));
    let view = format!("0 0 {WIDTH} {HEIGHT}");
    out.raw("<figure>").element("figcaption", title);
    out.open("svg", &[("viewBox", &view), ("role", &"img"), ("aria-label", &title)]);
    for (value, text) in &x.ticks {
        let at = at_x(*value);
        out.empty("line", &[("class", &"grid"), ("x1", &at), ("x2", &at), ("y1", &TOP), ("y2", &(TOP + up))]);
        let place: &[(&'static str, &dyn std::fmt::Display)] =
            &[("x", &at), ("y", &(TOP + up + 16.0)), ("text-anchor", &"middle")];
        out.open("text", place).text(text).close("text");
    }
    for (value, text) in &y.ticks {
        let at = at_y(*value);
        out.empty("line", &[("class", &"grid"), ("x1", &LEFT), ("x2", &(LEFT + across)), ("y1", &at), ("y2", &at)]);
        out.open("text", &[("x", &(LEFT - 6.0)), ("y", &(at + 4.0)), ("text-anchor", &"end")]).text(text).close("text");
    }
    let middle = LEFT + across / 2.0;
    out.open("text", &[("x", &middle), ("y", &(HEIGHT - 8.0)), ("text-anchor", &"middle")]).text(x.title).close("text");
    let turned = format!("translate(14 {}) rotate(-90)", TOP + up / 2.0);
    out.open("text", &[("transform", &turned), ("text-anchor", &"middle")]).text(y.title).close("text");
    for (at, line) in lines.iter().take(LINES_MAX).enumerate() {
        let class = format!("line c{at}");
        let points: Vec<_> = line.points.iter().map(|(x, y, _)| format!("{},{}", at_x(*x), at_y(*y))).collect();
        out.empty("polyline", &[("class", &class), ("points", &points.join(" "))]);
        let class = format!("dot c{at}");
        for (x, y, what) in &line.points {
            out.open("circle", &[("class", &class), ("cx", &at_x(*x)), ("cy", &at_y(*y)), ("r", &2.5)]);
            out.open("title", &[]).text(format_args!("{}: {what}", line.name)).close("title").close("circle");
        }
    }
    out.close("svg").raw("<ul class=\"legend\">");
    for (at, line) in lines.iter().take(LINES_MAX).enumerate() {
        out.raw("<li>").open("span", &[("class", &format!("key c{at}"))]).close("span").text(line.name).raw("</li>");
    }
    out.raw("</ul></figure>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_and_hold_all_values() {
        let texts = |axis: &Axis| axis.ticks.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>();
        let linear = Axis::of("x", Scale::Linear, [3.0, 1_480_000.0].into_iter());
        assert_eq!(texts(&linear), ["0", "500 k", "1 M", "1.5 M"]);
        assert_eq!((linear.place(0.0), linear.place(750_000.0), linear.place(1.5e6)), (0.0, 0.5, 1.0));
        let log = Axis::of("y", Scale::Log, [0.3, 20.0, f64::NAN, 0.0].into_iter());
        assert_eq!(texts(&log), ["0.1", "1", "10", "100"]);
        assert!((log.place(3.162_277_66) - 0.5).abs() < 1e-6);
        let narrow = Axis::of("y", Scale::Log, [2.0, 9.0].into_iter());
        assert_eq!(texts(&narrow), ["1", "2", "5", "10"]);
        let percentiles = Axis::of_percentiles("p", 5000.0);
        assert_eq!(texts(&percentiles), ["0%", "50%", "90%", "99%", "99.9%"]);
        for empty in [
            Axis::of("x", Scale::Linear, [].into_iter()),
            Axis::of("x", Scale::Log, [0.0].into_iter()),
            Axis::of("x", Scale::Log, [10.0].into_iter()),
        ] {
            assert!(empty.ticks.len() >= 2 && empty.to > empty.from, "{empty:?}");
            assert!((0.0..=1.0).contains(&empty.place(f64::NAN)));
        }
    }

    #[test]
    fn a_chart_draws_each_line_and_names_it() {
        let mut out = Markup::default();
        let axis = Axis::of("s", Scale::Linear, [10.0].into_iter());
        let line = |name| Line { name, points: vec![(0.0, 0.0, "nothing".into()), (10.0, 10.0, "all <of> it".into())] };
        chart(&mut out, "a & b", &axis, &axis, &[line("one"), line("<two>")]);
        let text = out.into_string();
        assert_eq!(text.matches("<polyline").count(), 2);
        assert!(text.contains("points=\"76,294 844,12\""), "{text}");
        assert!(text.contains("<title>&lt;two&gt;: all &lt;of&gt; it</title>") && text.contains("a &amp; b"), "{text}");
    }
}
