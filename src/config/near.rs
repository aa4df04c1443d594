//! Names near a mistyped one.

/// `; did you mean a or b?` with at most three near names, or nothing.
pub(super) fn suggestion(name: &str, all: impl Iterator<Item = String>) -> String {
    let most = (name.len() / 4).clamp(1, 4);
    let mut near: Vec<_> = all.map(|known| (distance(name, &known), known)).filter(|(d, _)| *d <= most).collect();
    near.sort();
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<_> = near.into_iter().take(3).map(|(_, known)| known).collect();
    format!("; did you mean {}?", names.join(" or "))
}

/// The least number of inserted, removed and replaced bytes that makes `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_right() {
        for (a, b, d) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("cores", "core", 1)] {
            assert_eq!(distance(a, b), d);
            assert_eq!(distance(b, a), d);
        }
    }
}
