//! The dynamic table of an HPACK decoder.
//!
//! In go lines of HTTP/1 text, each a field that a block has added; out they come again, by index,
//! in one or two copies. The bytes are a ring that grows as it fills, up to what RFC 7541 counts
//! for a table of 4 KiB, and there is none before a block has added something. What was found out
//! about a field when it was added is not found out again.

use std::collections::VecDeque;

use crate::http2::names::Kind;

/// What RFC 7541 §4.1 counts for a field beside its bytes.
pub(crate) const ENTRY_OVERHEAD: usize = 32;

/// The largest table: what a peer may use that has not been told otherwise.
pub(crate) const TABLE_BYTES_MAX: usize = 4096;

/// The first allocation, which holds what most clients say of themselves.
const RING_BYTES_MIN: usize = 512;

/// A field of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Where its line begins in the ring, without the ring's mask.
    at: u16,
    pub name: u16,
    value: u16,
    pub kind: Kind,
    pub is_valid: bool,
}

impl Entry {
    /// The bytes of its line: `name: value\r\n`.
    fn line(self) -> usize {
        usize::from(self.name) + usize::from(self.value) + LINE_OVERHEAD
    }

    fn size(self) -> usize {
        usize::from(self.name) + usize::from(self.value) + ENTRY_OVERHEAD
    }
}

/// What a line has beside its name and value.
pub(crate) const LINE_OVERHEAD: usize = 4;
const _: () = assert!(LINE_OVERHEAD < ENTRY_OVERHEAD && TABLE_BYTES_MAX.is_power_of_two());

#[derive(Debug)]
pub(crate) struct Table {
    /// The lines. Its length is a power of two, or zero.
    ring: Vec<u8>,
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Where the next line begins, without the mask.
    end: u16,
    /// As RFC 7541 counts; `size <= size_max <= TABLE_BYTES_MAX`.
    size: u16,
    size_max: u16,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            ring: Vec::new(),
            entries: VecDeque::new(),
            end: 0,
            size: 0,
            size_max: TABLE_BYTES_MAX as u16,
        }
    }
}

impl Table {
    /// Bytes that are allocated for it.
    pub(crate) fn held_bytes(&self) -> usize {
        self.ring.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    pub(crate) fn size_max(&self) -> usize {
        usize::from(self.size_max)
    }

    /// Obeys a size update.
    pub(crate) fn resize(&mut self, size_max: usize) {
        debug_assert!(size_max <= TABLE_BYTES_MAX);
        self.size_max = size_max.min(TABLE_BYTES_MAX) as u16;
        self.evict_to(self.size_max());
    }

    /// The entry that was added `back` entries before the last one.
    #[inline]
    pub(crate) fn get(&self, back: usize) -> Option<Entry> {
        let at = self.entries.len().checked_sub(back + 1)?;
        self.entries.get(at).copied()
    }

    /// Appends an entry's line to `out`.
    #[inline]
    pub(crate) fn copy_line(&self, entry: Entry, out: &mut Vec<u8>) {
        self.copy(entry, entry.line(), out);
    }

    /// Appends an entry's `name: ` to `out`.
    pub(crate) fn copy_name(&self, entry: Entry, out: &mut Vec<u8>) {
        self.copy(entry, usize::from(entry.name) + 2, out);
    }

    #[inline]
    fn copy(&self, entry: Entry, bytes: usize, out: &mut Vec<u8>) {
        let start = usize::from(entry.at) & (self.ring.len() - 1);
        if let Some(line) = self.ring.get(start..start + bytes) {
            out.extend_from_slice(line);
        } else {
            out.extend_from_slice(&self.ring[start..]);
            let wrapped = bytes - (self.ring.len() - start);
            out.extend_from_slice(&self.ring[..wrapped]);
        }
    }

    /// Adds a field by its line, of which `name` bytes are its name. One that is larger than the
    /// table empties it (RFC 7541 §4.4).
    pub(crate) fn add(&mut self, line: &[u8], name: usize, kind: Kind, is_valid: bool) {
        let size = line.len() - LINE_OVERHEAD + ENTRY_OVERHEAD;
        if size > self.size_max() {
            self.clear();
            return;
        }
        self.evict_to(self.size_max() - size);
        self.make_room(line.len());
        let value = line.len() - LINE_OVERHEAD - name;
        let at = self.end;
        let start = usize::from(at) & (self.ring.len() - 1);
        let first = line.len().min(self.ring.len() - start);
        self.ring[start..start + first].copy_from_slice(&line[..first]);
        self.ring[..line.len() - first].copy_from_slice(&line[first..]);
        self.end = at.wrapping_add(line.len() as u16);
        self.size += size as u16;
        let (name, value) = (name as u16, value as u16);
        self.entries.push_back(Entry { at, name, value, kind, is_valid });
    }

    /// Forgets all entries.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.size = 0;
    }

    fn evict_to(&mut self, size: usize) {
        while usize::from(self.size) > size {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.size -= oldest.size() as u16;
        }
    }

    /// Sees to it that a line of so many bytes fits into the ring.
    fn make_room(&mut self, bytes: usize) {
        let first = self.entries.front().map_or(self.end, |entry| entry.at);
        let used = usize::from(self.end.wrapping_sub(first));
        let needed = used + bytes;
        if needed <= self.ring.len() {
            return;
        }
        let mut ring = Vec::new();
        ring.reserve_exact(needed.next_power_of_two().max(RING_BYTES_MIN));
        for at in 0..self.entries.len() {
            let entry = self.entries[at];
            self.entries[at].at = ring.len() as u16;
            self.copy_line(entry, &mut ring);
        }
        self.end = ring.len() as u16;
        ring.resize(needed.next_power_of_two().max(RING_BYTES_MIN), 0);
        self.ring = ring;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(table: &Table) -> Vec<String> {
        let mut lines = Vec::new();
        for back in 0.. {
            let Some(entry) = table.get(back) else {
                return lines;
            };
            let mut out = Vec::new();
            table.copy_line(entry, &mut out);
            lines.push(String::from_utf8(out).expect("text"));
        }
        lines
    }

    fn add(table: &mut Table, name: &str, value: &str) {
        table.add(format!("{name}: {value}\r\n").as_bytes(), name.len(), Kind::Plain, true);
    }

    #[test]
    fn nothing_is_held_before_something_was_added() {
        assert_eq!(Table::default().held_bytes(), 0);
    }

    #[test]
    fn old_entries_give_way_and_young_ones_stay_whole_around_the_ring() {
        let mut table = Table::default();
        let mut model: VecDeque<(String, usize)> = VecDeque::new();
        for round in 0..20_000_usize {
            let name = format!("n{}", round % 17);
            let value = "v".repeat(round * 7 % 150) + &round.to_string();
            model.push_front((format!("{name}: {value}\r\n"), name.len() + value.len() + 32));
            while model.iter().map(|(_, size)| size).sum::<usize>() > table.size_max() {
                model.pop_back();
            }
            add(&mut table, &name, &value);
            let expected: Vec<_> = model.iter().map(|(line, _)| line.clone()).collect();
            assert_eq!(lines(&table), expected);
            if round % 1000 == 999 {
                table.resize(round / 5);
                while model.iter().map(|(_, size)| size).sum::<usize>() > round / 5 {
                    model.pop_back();
                }
            }
        }
        assert!(table.ring.len() <= TABLE_BYTES_MAX);
    }

    #[test]
    fn what_is_held_never_exceeds_the_ring_and_its_entries() {
        let mut table = Table::default();
        for _ in 0..1000 {
            table.add(b": \r\n", 0, Kind::Malformed, false);
        }
        assert_eq!(table.entries.len(), 128);
        for _ in 0..100 {
            add(&mut table, "a", &"v".repeat(4000));
        }
        assert!(table.held_bytes() <= TABLE_BYTES_MAX + 128 * size_of::<Entry>());
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn a_field_larger_than_the_table_empties_it() {
        let mut table = Table::default();
        add(&mut table, "a", "b");
        add(&mut table, "a", &"v".repeat(4096 - 32));
        assert!(table.get(0).is_none());
    }
}
