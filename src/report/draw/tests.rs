//! What is drawn, element by element.

use super::*;

fn count(drawing: &Drawing, what: &str) -> usize {
    drawing.inline().matches(what).count()
}

fn chart() -> Chart {
    Chart::new("t", Axis::new("update"), Axis::new("nats"))
}

/// A line that stops where a number is missing, a mark where one stands alone between two that are missing.
#[test]
fn missing_numbers_are_gaps() {
    let line = |ys: &[f64]| {
        chart().with(Series::line("a", ys.iter().enumerate().map(|(n, y)| (n as f64, *y)))).draw()
    };
    let long = |n: usize| vec![1.0; n];
    assert_eq!(count(&line(&long(30)), "<path class=\"line"), 1);
    assert_eq!(count(&line(&long(30)), "class=\"mark"), 0, "many points need no marks");
    assert_eq!(count(&line(&[1.0, 2.0, 3.0]), "class=\"mark"), 3, "few have marks");
    let gap = [long(15), vec![f64::NAN, 7.0, f64::INFINITY], long(15)].concat();
    assert_eq!(count(&line(&gap), "<path class=\"line"), 2);
    assert_eq!(count(&line(&gap), "class=\"mark"), 1);
    assert_eq!(count(&line(&[]), "no numbers"), 1);
    assert_eq!(count(&line(&[f64::NAN]), "no numbers"), 1);
}

/// Intervals are bands along lines, and bars at marks and at a point that is alone.
#[test]
fn intervals_are_bands_and_bars() {
    let at = |x: f64| Point { x, y: 1.0, low: 0.5, high: 1.5 };
    let band = chart().with(Series::line("a", [at(0.0), at(1.0)])).draw();
    assert_eq!((count(&band, "class=\"band"), count(&band, "class=\"bar")), (1, 0));
    let marks = chart().with(Series::marks("a", [at(0.0), at(1.0)])).draw();
    assert_eq!((count(&marks, "class=\"band"), count(&marks, "class=\"bar")), (0, 6));
    let alone = chart().with(Series::line("a", [at(0.0)])).draw();
    assert_eq!((count(&alone, "class=\"band"), count(&alone, "class=\"bar")), (0, 3));
}

/// Several series have names, colours, dashes and shapes of their own; one needs no legend.
#[test]
fn series_are_told_apart() {
    let many = (0..10).fold(chart(), |chart, n| {
        chart.with(Series::line(format!("run {n}"), [(0.0, f64::from(n)), (1.0, 1.0)]))
    });
    let drawing = many.draw();
    let classes: std::collections::BTreeSet<&str> = drawing
        .inline()
        .split("<path class=\"line ")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(classes.len(), 10, "{classes:?}");
    assert_eq!(count(&drawing, "class=\"name\""), 10);
    assert_eq!(count(&chart().with(Series::line("a", [(0.0, 1.0)])).draw(), "class=\"name\""), 0);
    assert_eq!(count(&chart().with(Series::line("a", [(0.0, 1.0)])).named().draw(), "class=\"name\""), 1);
    let styled = chart().with(Series::line("a", [(0.0, 1.0), (1.0, 2.0)]).styled(3)).draw();
    assert_eq!(count(&styled, "class=\"line s3 d3\""), 1);
}

/// On a logarithmic axis what is not positive is left out and nothing else is.
#[test]
fn what_has_no_logarithm_is_not_drawn() {
    let log = Chart::new("t", Axis::log("x"), Axis::log("y"));
    let points = [(0.0, 1.0), (1.0, 0.0), (10.0, 10.0), (100.0, 100.0)];
    assert_eq!(count(&log.with(Series::marks("a", points)).draw(), "class=\"mark"), 2);
}

/// A name that is too long is cut, and can still be read.
#[test]
fn long_names_are_cut() {
    let name = "long ".repeat(60);
    let drawing =
        chart().with(Series::line(&name, [(0.0, 1.0)])).with(Series::line("b", [(0.0, 2.0)])).draw();
    assert!(drawing.inline().contains('…') && drawing.inline().contains(&format!("<title>{name}</title>")));
}

#[test]
fn coordinates_are_inside() {
    let wild = [(-1e300, 1e-300), (1e300, 5.0), (0.0, -1e300)];
    let drawing = chart().with(Series::line("a", wild)).with(Series::marks("b", [(3.0, f64::MAX)])).draw();
    assert!(!drawing.inline().contains("inf") && !drawing.inline().contains("NaN"), "{}", drawing.inline());
}
