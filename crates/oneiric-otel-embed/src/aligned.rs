//! Memory that begins where a line of the cache does: a vector register's worth of it never lies in two lines.
//!
//! Nothing but speed depends on it.

/// Bytes of a line.
const LINE: usize = 64;

/// Values that begin with a line.
#[derive(Default)]
pub(crate) struct Aligned<T>(Vec<T>);

impl<T: Copy + Default> Aligned<T> {
    /// Values more than are asked for, so that a line begins among them.
    const SPARE: usize = LINE / size_of::<T>();

    /// `length` values, all of them the default.
    pub(crate) fn new(length: usize) -> Self {
        Self(vec![T::default(); length + Self::SPARE])
    }

    /// All values.
    pub(crate) fn values(&self) -> &[T] {
        &self.0[self.start()..][..self.0.len().saturating_sub(Self::SPARE)]
    }

    /// All values, to be written.
    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        self.first(self.0.len().saturating_sub(Self::SPARE))
    }

    /// The first `length` values, of which there will be so many if there are fewer; what they hold is left over from earlier
    /// use.
    pub(crate) fn first(&mut self, length: usize) -> &mut [T] {
        if self.0.len() < length + Self::SPARE {
            self.0.resize(length + Self::SPARE, T::default());
        }
        let start = self.start();
        &mut self.0[start..][..length]
    }

    fn start(&self) -> usize {
        // The standard library may decline to say where a line begins.
        Some(self.0.as_ptr().align_offset(LINE))
            .filter(|start| *start <= Self::SPARE && *start <= self.0.len())
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Aligned, LINE};

    #[test]
    fn values_begin_with_a_line_however_many_there_are() {
        let mut floats = Aligned::<f32>::default();
        assert!(floats.values().is_empty());
        for length in [0, 1, 7, 100, 3, 5000] {
            let values = floats.first(length);
            assert_eq!((values.len(), values.as_ptr().addr() % LINE), (length, 0));
        }
        let mut bytes = Aligned::<i8>::new(100);
        bytes.values_mut()[99] = 7;
        assert_eq!((bytes.values().len(), bytes.values()[99], bytes.values().as_ptr().addr() % LINE), (100, 7, 0));
    }
}
