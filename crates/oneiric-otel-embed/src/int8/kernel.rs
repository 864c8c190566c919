//! Products of whole numbers: rows of u8 by panels of i8, summed in i32. One of the three places that leave safe Rust, behind
//! an interface that checks every bound.
//!
//! Promises the same sums with all instructions, since sums of whole numbers do not depend on their order.
//!
//! Knows nothing of what the numbers stand for.

#![allow(unsafe_code)]

use super::amx::{self, Tiles};
use crate::instructions::Instructions;

/// Columns of a panel.
pub(crate) const WIDTH: usize = 48;
/// Rows of a panel that stand together: what an instruction multiplies and adds up at once.
pub(crate) const GROUP: usize = 4;
/// Deepest product whose sums are sure to fit: 255 x 127 x 65536 is below 2^31.
pub(crate) const DEEPEST: usize = 65_536;

/// Instructions that this processor has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel(Instructions);

impl Kernel {
    /// The kernel of these instructions, if this processor has them.
    pub(crate) fn new(instructions: Instructions) -> Option<Self> {
        instructions.is_available().then_some(Self(instructions))
    }

    /// Rows have a multiple of so many values, and a panel of so many rows: zeros fill them up.
    pub(crate) fn depth_step(self) -> usize {
        if self.0 == Instructions::Amx { amx::DEPTH } else { GROUP }
    }

    /// A multiple of so many rows is multiplied at a time: any rows fill them up.
    pub(crate) fn row_step(self) -> usize {
        if self.0 == Instructions::Amx { amx::ROWS } else { 1 }
    }

    /// Where in a panel the value of row `depth` and column `column` stands.
    pub(crate) fn place(self, depth: usize, column: usize) -> usize {
        match self.0 {
            // Columns side by side, as a compiler vectorises it.
            Instructions::Portable => depth * WIDTH + column,
            // Groups of rows, as the instructions sum them up.
            _ => depth / GROUP * WIDTH * GROUP + column * GROUP + depth % GROUP,
        }
    }

    /// Gets the processor ready for some products on this thread.
    pub(crate) fn run(self) -> Running {
        Running { kernel: self, tiles: (self.0 == Instructions::Amx).then(Tiles::configure) }
    }
}

/// A kernel that is ready, until it is dropped. There is one at a time on a thread.
pub(crate) struct Running {
    kernel: Kernel,
    tiles: Option<Tiles>,
}

impl Running {
    /// Sets `sums`, rows of [`WIDTH`], to the product of `rows`, each of `depth` values, and a panel of `depth` rows.
    ///
    /// # Panics
    /// When the sizes do not fit together: errors in this crate, which must not become memory errors.
    pub(crate) fn multiply(&self, rows: &[u8], depth: usize, panel: &[i8], sums: &mut [i32]) {
        assert!(depth > 0 && depth.is_multiple_of(GROUP) && depth <= DEEPEST, "depth does not fit");
        assert!(panel.len() == depth * WIDTH && rows.len().is_multiple_of(depth), "sizes do not fit");
        assert!(sums.len() == rows.len() / depth * WIDTH, "sums do not fit");
        if let Some(tiles) = &self.tiles {
            return tiles.multiply(rows, depth, panel, sums);
        }
        match self.kernel.0 {
            // SAFETY: `new` has seen that the processor has the instructions, and the assertions above are what the
            // functions ask of the sizes.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni => unsafe { x86::avx512_vnni(rows, depth, panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::AvxVnni => unsafe { x86::avx_vnni(rows, depth, panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { x86::avx2(rows, depth, panel, sums) },
            _ => portable(rows, depth, panel, sums),
        }
    }
}

fn portable(rows: &[u8], depth: usize, panel: &[i8], sums: &mut [i32]) {
    let (sums, _) = sums.as_chunks_mut::<WIDTH>();
    let (panel, _) = panel.as_chunks::<WIDTH>();
    for (row, sums) in rows.chunks_exact(depth).zip(sums) {
        let mut own = [0; WIDTH];
        for (value, weights) in row.iter().zip(panel) {
            let value = i16::from(*value);
            for (sum, weight) in own.iter_mut().zip(weights) {
                *sum += i32::from(value) * i32::from(i16::from(*weight));
            }
        }
        *sums = own;
    }
}

/// All functions ask the same of their caller: that the processor has the instructions they are compiled for, and that
/// `rows` has a multiple of `depth` values, `panel` `depth * WIDTH` and `sums` [`WIDTH`] for each row, `depth` being a
/// multiple of [`GROUP`].
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_cvtepu8_epi16, _mm_loadu_si128, _mm_set1_epi32, _mm256_add_epi32,
        _mm256_broadcastq_epi64, _mm256_cvtepi8_epi16, _mm256_dpbusd_avx_epi32, _mm256_hadd_epi32, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
        _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };

    use super::{GROUP, WIDTH};

    /// Calls the tile of as many rows as are left, the most at a time.
    macro_rules! tiles {
        ($rows:ident, $depth:ident, $panel:ident, $sums:ident, $tile:ident, $most:literal: $($fewer:literal)*) => {{
            let count = $rows.len() / $depth;
            let mut row = 0;
            while row < count {
                // SAFETY: of this function's caller, and `row` is less than the number of rows.
                let (from, to) = unsafe { ($rows.as_ptr().add(row * $depth), $sums.as_mut_ptr().add(row * WIDTH)) };
                // SAFETY: of this function's caller, and so many rows are left.
                row += unsafe {
                    match count - row {
                        $($fewer => { $tile::<$fewer>(from, $depth, $panel.as_ptr(), to); $fewer })*
                        _ => { $tile::<$most>(from, $depth, $panel.as_ptr(), to); $most }
                    }
                };
            }
        }};
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn avx512_vnni(rows: &[u8], depth: usize, panel: &[i8], sums: &mut [i32]) {
        tiles!(rows, depth, panel, sums, tile_512, 8: 1 2 3 4 5 6 7);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) unsafe fn avx_vnni(rows: &[u8], depth: usize, panel: &[i8], sums: &mut [i32]) {
        tiles!(rows, depth, panel, sums, tile_256, 4: 1 2 3);
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2(rows: &[u8], depth: usize, panel: &[i8], sums: &mut [i32]) {
        tiles!(rows, depth, panel, sums, tile_pairs, 4: 1 2 3);
    }

    /// `ROWS` rows by the whole panel.
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn tile_512<const ROWS: usize>(rows: *const u8, depth: usize, panel: *const i8, sums: *mut i32) {
        const VECTORS: usize = WIDTH / 16;
        let mut own = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for at in (0..depth).step_by(GROUP) {
            let weights: [__m512i; VECTORS] =
                // SAFETY: 4 rows of the panel, from row `at` on, are 3 vectors of 64 values.
                std::array::from_fn(|vector| unsafe { _mm512_loadu_si512(panel.add(at * WIDTH + vector * 64).cast()) });
            for (row, own) in own.iter_mut().enumerate() {
                // SAFETY: each of the `ROWS` rows has 4 values from `at` on.
                let values = unsafe { rows.add(row * depth + at).cast::<i32>().read_unaligned() };
                let values = _mm512_set1_epi32(values);
                for (sum, weights) in own.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, values, weights);
                }
            }
        }
        for (row, own) in own.iter().enumerate() {
            for (vector, sum) in own.iter().enumerate() {
                // SAFETY: the sums of each of the `ROWS` rows are 3 vectors of 16.
                unsafe { _mm512_storeu_si512(sums.add(row * WIDTH + vector * 16).cast(), *sum) };
            }
        }
    }

    /// `ROWS` rows by the whole panel, half of its columns at a time.
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn tile_256<const ROWS: usize>(rows: *const u8, depth: usize, panel: *const i8, sums: *mut i32) {
        const VECTORS: usize = 3;
        for first in (0..WIDTH).step_by(VECTORS * 8) {
            let mut own = [[_mm256_setzero_si256(); VECTORS]; ROWS];
            for at in (0..depth).step_by(GROUP) {
                let weights: [__m256i; VECTORS] = std::array::from_fn(|vector| {
                    let place = at * WIDTH + (first + vector * 8) * GROUP;
                    // SAFETY: 4 rows of the panel, from row `at` on, have 32 values for 8 columns; `first` leaves 24.
                    unsafe { _mm256_loadu_si256(panel.add(place).cast()) }
                });
                for (row, own) in own.iter_mut().enumerate() {
                    // SAFETY: each of the `ROWS` rows has 4 values from `at` on.
                    let values = unsafe { rows.add(row * depth + at).cast::<i32>().read_unaligned() };
                    let values = _mm256_set1_epi32(values);
                    for (sum, weights) in own.iter_mut().zip(weights) {
                        *sum = _mm256_dpbusd_avx_epi32(*sum, values, weights);
                    }
                }
            }
            for (row, own) in own.iter().enumerate() {
                for (vector, sum) in own.iter().enumerate() {
                    // SAFETY: the sums of each of the `ROWS` rows are 6 vectors of 8, of which `first` leaves 3.
                    unsafe { _mm256_storeu_si256(sums.add(row * WIDTH + first + vector * 8).cast(), *sum) };
                }
            }
        }
    }

    /// `ROWS` rows by the whole panel, 8 columns at a time. Multiplies in 16 bits, because the instruction that multiplies
    /// bytes cuts off sums of pairs that do not fit into 16 bits.
    #[target_feature(enable = "avx2")]
    unsafe fn tile_pairs<const ROWS: usize>(rows: *const u8, depth: usize, panel: *const i8, sums: *mut i32) {
        for first in (0..WIDTH).step_by(8) {
            // Of 4 columns each, two sums a column.
            let mut own = [[_mm256_setzero_si256(); 2]; ROWS];
            for at in (0..depth).step_by(GROUP) {
                let weights: [__m256i; 2] = std::array::from_fn(|half| {
                    let place = at * WIDTH + (first + half * 4) * GROUP;
                    // SAFETY: 4 rows of the panel, from row `at` on, have 16 values for 4 columns; `first` leaves 8.
                    let bytes: __m128i = unsafe { _mm_loadu_si128(panel.add(place).cast()) };
                    _mm256_cvtepi8_epi16(bytes)
                });
                for (row, own) in own.iter_mut().enumerate() {
                    // SAFETY: each of the `ROWS` rows has 4 values from `at` on.
                    let values = unsafe { rows.add(row * depth + at).cast::<i32>().read_unaligned() };
                    let values = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_set1_epi32(values)));
                    for (sum, weights) in own.iter_mut().zip(weights) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(values, weights));
                    }
                }
            }
            for (row, [low, high]) in own.into_iter().enumerate() {
                // Adds pairs up as columns 0 1 4 5 2 3 6 7.
                let sum = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(low, high));
                // SAFETY: each of the `ROWS` rows has sums of 48 columns, of which `first` leaves 8.
                unsafe { _mm256_storeu_si256(sums.add(row * WIDTH + first).cast(), sum) };
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a test says what it cannot try")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::prelude::*;

    use super::{GROUP, Kernel, WIDTH, amx};
    use crate::instructions::Instructions;

    fn kernels() -> impl Iterator<Item = (Instructions, Kernel)> {
        Instructions::ALL.into_iter().filter_map(|instructions| Some((instructions, Kernel::new(instructions)?)))
    }

    /// A panel that holds `weight(depth, column)`.
    fn panel(kernel: Kernel, depth: usize, weight: impl Fn(usize, usize) -> i8) -> Vec<i8> {
        let mut panel = vec![0; depth * WIDTH];
        for row in 0..depth {
            for column in 0..WIDTH {
                panel[kernel.place(row, column)] = weight(row, column);
            }
        }
        panel
    }

    fn agrees(rows: &[u8], depth: usize, weight: impl Fn(usize, usize) -> i8) {
        let count = rows.len() / depth;
        let mut expected = Vec::with_capacity(count * WIDTH);
        for row in rows.chunks(depth) {
            for column in 0..WIDTH {
                let products =
                    row.iter().enumerate().map(|(at, value)| i64::from(*value) * i64::from(weight(at, column)));
                expected.push(i32::try_from(products.sum::<i64>()).expect("the sums fit"));
            }
        }
        for (instructions, kernel) in kernels() {
            let (wide, all) = (depth.next_multiple_of(kernel.depth_step()), count.next_multiple_of(kernel.row_step()));
            // What fills up a row is multiplied by zeros, and what fills up the rows is not looked at.
            let mut filled = vec![201; all * wide];
            for (row, filled) in rows.chunks(depth).zip(filled.chunks_mut(wide)) {
                filled[..depth].copy_from_slice(row);
            }
            let panel = panel(kernel, wide, |row, column| if row < depth { weight(row, column) } else { 0 });
            let mut sums = vec![i32::MIN; all * WIDTH];
            kernel.run().multiply(&filled, wide, &panel, &mut sums);
            let name = instructions.as_str();
            assert!(sums[..expected.len()] == expected, "{name} with {count} rows of {depth}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            (depth, rows) in (1_usize..=40, 0_usize..=49).prop_flat_map(|(groups, rows)| {
                let depth = groups * GROUP;
                (Just(depth), prop::collection::vec(any::<u8>(), depth * rows))
            }),
            weights in prop::collection::vec(any::<i8>(), 160 * WIDTH),
        ) {
            agrees(&rows, depth, |row, column| weights[row * WIDTH + column]);
        }
    }

    #[test]
    fn the_greatest_values_are_not_cut_off() {
        for depth in [4, 384, 1536] {
            for weight in [-128, -127, 127] {
                agrees(&vec![255; depth * 9], depth, |_, _| weight);
                agrees(
                    &vec![255; depth * 9],
                    depth,
                    |row, column| if (row + column) % 2 == 0 { weight } else { -weight.max(-127) },
                );
            }
        }
    }

    #[test]
    fn every_place_of_a_panel_is_taken_once() {
        for (_, kernel) in kernels() {
            let mut places: Vec<usize> =
                (0..12).flat_map(|row| (0..WIDTH).map(move |column| kernel.place(row, column))).collect();
            places.sort_unstable();
            assert_eq!(places, (0..12 * WIDTH).collect::<Vec<_>>());
        }
    }

    #[test]
    fn refuses_to_write_beyond_the_sums() {
        for (_, kernel) in kernels() {
            let (depth, rows) = (kernel.depth_step(), kernel.row_step() * 2);
            let (panel, mut sums) = (vec![0; depth * WIDTH], vec![0; (rows - 1) * WIDTH]);
            let refused = catch_unwind(AssertUnwindSafe(|| {
                kernel.run().multiply(&vec![0; depth * rows], depth, &panel, &mut sums);
            }));
            assert_eq!(refused.unwrap_err().downcast_ref(), Some(&"sums do not fit"));
            // A panic leaves the thread as it was.
            kernel.run().multiply(&vec![0; depth * rows], depth, &panel, &mut vec![0; rows * WIDTH]);
        }
    }

    #[test]
    fn amx_is_tried_where_there_is_amx() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        if !(cpuinfo.contains("amx_tile") && cpuinfo.contains("amx_int8")) {
            eprintln!("no AMX here: its products are not compared");
            return;
        }
        // The processor has it; sandboxes may forbid it, and tools that simulate a processor may hide it.
        let Some(kernel) = Kernel::new(Instructions::Amx) else {
            eprintln!("no AMX for this process: its products are not compared");
            return;
        };
        assert_eq!(Instructions::detect(), Instructions::Amx);
        // Every thread has tiles of its own.
        std::thread::scope(|scope| {
            for value in 1..=4_u8 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        let running = kernel.run();
                        let mut sums = [0; amx::ROWS * WIDTH];
                        running.multiply(
                            &[value; amx::ROWS * amx::DEPTH],
                            amx::DEPTH,
                            &[-3; amx::DEPTH * WIDTH],
                            &mut sums,
                        );
                        std::thread::yield_now();
                        assert!(sums.iter().all(|sum| *sum == i32::from(value) * -192));
                    }
                });
            }
        });
    }

    #[test]
    fn tiles_are_configured_once_at_a_time() {
        let Some(kernel) = Kernel::new(Instructions::Amx) else {
            return eprintln!("no AMX here: no tiles to configure");
        };
        let running = kernel.run();
        assert!(catch_unwind(|| kernel.run()).is_err());
        drop(running);
        drop(kernel.run());
    }
}
