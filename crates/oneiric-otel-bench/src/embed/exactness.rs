//! How near two sets of vectors of the same texts are.

use serde::Serialize;

/// Neighbours that are compared.
const NEIGHBOURS: usize = 10;

/// How near int8 is to f32.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Exactness {
    /// The least cosine of a text's two vectors.
    pub least_cosine: f64,
    /// Their mean.
    pub mean_cosine: f64,
    /// Of the ten nearest texts of each text by one, how many are among the ten nearest by the other, as a share.
    pub same_neighbours: f64,
}

/// Compares the vectors of the same texts.
pub(super) fn compare(one: &[Vec<f32>], other: &[Vec<f32>]) -> Exactness {
    let cosines: Vec<f64> = one.iter().zip(other).map(|(a, b)| cosine(a, b)).collect();
    let shared: usize = (0..one.len())
        .map(|text| {
            let theirs = neighbours(other, text);
            neighbours(one, text).iter().filter(|near| theirs.contains(near)).count()
        })
        .sum();
    let asked = one.len() * NEIGHBOURS.min(one.len().saturating_sub(1));
    Exactness {
        least_cosine: cosines.iter().copied().fold(1.0, f64::min),
        mean_cosine: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
        same_neighbours: shared as f64 / asked.max(1) as f64,
    }
}

fn cosine(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn neighbours(vectors: &[Vec<f32>], text: usize) -> Vec<usize> {
    let mut near: Vec<(f64, usize)> = (0..vectors.len())
        .filter(|other| *other != text)
        .map(|other| (cosine(&vectors[text], &vectors[other]), other))
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    near.into_iter().take(NEIGHBOURS).map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::compare;

    /// Directions in a plane, by their angle.
    fn directions(angles: &[f32]) -> Vec<Vec<f32>> {
        angles.iter().map(|angle| vec![angle.cos(), angle.sin()]).collect()
    }

    #[test]
    fn the_same_vectors_are_as_near_as_can_be() {
        let vectors = directions(&(0..30_u8).map(|at| f32::from(at) / 10.0).collect::<Vec<_>>());
        let found = compare(&vectors, &vectors);
        assert!((found.least_cosine - 1.0).abs() < 1e-6 && (found.mean_cosine - 1.0).abs() < 1e-6);
        assert!((found.same_neighbours - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn other_vectors_are_told_apart() {
        let angles: Vec<f32> = (0..30_u8).map(|at| f32::from(at) / 10.0).collect();
        let mut turned = angles.clone();
        turned[0] = 3.0;
        let found = compare(&directions(&angles), &directions(&turned));
        assert!(found.least_cosine < -0.9 && found.mean_cosine < 0.95 && found.same_neighbours < 1.0, "{found:?}");
    }
}
