//! Which key a request names.

use std::cell::Cell;
use std::rc::Rc;

/// SplitMix64: each client walks the keys in an order of its own, the same in every run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// As good as equally often each number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        // The upper half times the bound, shifted back.
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// From 0 to below 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How the numbers of keys are chosen.
#[derive(Debug, Clone)]
pub(crate) enum Keys {
    /// Each of so many equally often.
    Uniform(u32),
    /// By Zipf's law.
    Zipf(Zipf),
    /// Each once, in order, by all clients together: the number that is next, and how many there are.
    Once(Rc<Cell<u32>>, u32),
}

impl Keys {
    /// The next one; `None` if each was named once and that was all.
    pub(crate) fn next(&self, random: &mut Random) -> Option<u32> {
        match self {
            Keys::Uniform(count) => Some(random.below(*count)),
            Keys::Zipf(zipf) => Some(zipf.next(random)),
            Keys::Once(next, count) => {
                let number = next.get();
                (number < *count).then(|| {
                    next.set(number + 1);
                    number
                })
            }
        }
    }
}

/// Zipf's law over the keys 0 to n - 1: key k has a weight of 1 / (k + 1)^exponent. So key 0 is the most frequent.
///
/// By rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
/// distributions", 1996): no table, hence no time to set up, however many keys there are. A point is drawn from below
/// the continuous curve x^-exponent, rounded to a key, and kept if it also lies within that key's bar.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    exponent: f64,
    count: f64,
    /// The area below the curve up to the left end of the first bar, which is cut to its height, and up to the right end
    /// of the last one.
    area: (f64, f64),
}

impl Zipf {
    /// `count` is at least 1, `exponent` positive.
    pub(crate) fn new(count: u32, exponent: f64) -> Zipf {
        let mut zipf = Zipf { exponent, count: f64::from(count), area: (0.0, 0.0) };
        zipf.area = (zipf.area_to(1.5) - 1.0, zipf.area_to(zipf.count + 0.5));
        zipf
    }

    fn next(&self, random: &mut Random) -> u32 {
        loop {
            let area = self.area.1 + random.fraction() * (self.area.0 - self.area.1);
            let rank = self.reach_of(area).round().clamp(1.0, self.count);
            if area >= self.area_to(rank + 0.5) - rank.powf(-self.exponent) {
                return rank as u32 - 1;
            }
        }
    }

    /// The integral of x^-exponent from 1 to `x`.
    fn area_to(&self, x: f64) -> f64 {
        let power = 1.0 - self.exponent;
        // The limit where the power is nought; near it the difference of two ones would have no digits left.
        if power.abs() < 1e-9 { x.ln() } else { (power * x.ln()).exp_m1() / power }
    }

    /// The inverse of that.
    fn reach_of(&self, area: f64) -> f64 {
        let power = 1.0 - self.exponent;
        if power.abs() < 1e-9 { area.exp() } else { ((area * power).max(-1.0).ln_1p() / power).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_is_named_and_no_other() {
        for keys in [1, 2, 10] {
            for kind in [Keys::Uniform(keys), Keys::Zipf(Zipf::new(keys, 0.99))] {
                let mut random = Random::new(0);
                let named: BTreeSet<u32> = (0..2000).filter_map(|_| kind.next(&mut random)).collect();
                assert_eq!(named, (0..keys).collect(), "{kind:?}");
            }
        }
    }

    #[test]
    fn once_is_once_for_all_clients_together() {
        let keys = Keys::Once(Rc::default(), 5);
        let (one, other) = (keys.clone(), keys);
        let mut random = Random::new(0);
        let named: Vec<u32> =
            (0..10).filter_map(|n| if n % 2 == 0 { &one } else { &other }.next(&mut random)).collect();
        assert_eq!(named, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn zipf_has_its_frequencies() {
        for exponent in [0.5, 0.99, 1.0, 1.5] {
            let (zipf, mut random) = (Zipf::new(100, exponent), Random::new(1));
            let mut counts = [0u32; 100];
            let draws = 200_000;
            for _ in 0..draws {
                counts[zipf.next(&mut random) as usize] += 1;
            }
            let weight = |rank: usize| ((rank + 1) as f64).powf(-exponent);
            let all: f64 = (0..100).map(weight).sum();
            for rank in [0, 1, 9, 99] {
                let wanted = f64::from(draws) * weight(rank) / all;
                let got = f64::from(counts[rank]);
                // Five standard deviations of a count.
                assert!((got - wanted).abs() < 5.0 * wanted.sqrt(), "{exponent} {rank}: {got}, not {wanted}");
            }
        }
    }
}
