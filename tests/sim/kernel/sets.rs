//! Epoll sets: what is watched, and what there is to tell.
//!
//! In go files to which something has happened; out come events, an edge once. Whoever is watched
//! twice is told of twice.

use super::{EDGE, ERR, EVENTS, FIRST, HUP, IN, Item, Kernel, Kind, OUT, Outcome};
use std::collections::VecDeque;

impl Kernel {
    pub(super) fn readiness(&self, file: usize) -> u32 {
        match &self.files[file].kind {
            Kind::Fresh => OUT | HUP,
            Kind::Listener(it) if it.is_shut => IN | HUP,
            Kind::Listener(it) if it.queue.is_empty() => 0,
            Kind::Listener(_) => IN,
            Kind::Datagrams(it) => it.readiness(),
            Kind::Event(0) => OUT,
            Kind::Event(_) | Kind::Pipe(_) => IN | OUT,
            Kind::Timer { has_fired, .. } => u32::from(*has_fired) * IN,
            Kind::Set(set) => {
                let is_ready = set.ready.iter().any(|item| {
                    let item = set.items.get(*item);
                    item.is_some_and(|it| self.readiness(it.file) & it.events & EVENTS != 0)
                });
                u32::from(is_ready) * IN
            }
            Kind::Connection(connection) => self.connections[*connection].readiness(),
        }
    }

    /// Something has happened to `file`: the sets that watch it hear of it.
    pub(super) fn stir(&mut self, file: usize, events: u32) {
        let count = self.files[file].watchers.len();
        for index in 0..count {
            let (set, item) = self.files[file].watchers[index];
            let Kind::Set(it) = &mut self.files[set].kind else { continue };
            let entry = &mut it.items[item];
            if (entry.events | HUP | ERR) & events == 0 || entry.is_queued {
                continue;
            }
            entry.is_queued = true;
            it.ready.push_back(item);
            self.stir(set, IN);
        }
    }

    pub(crate) fn control(
        &mut self,
        set: i32,
        call: i32,
        fd: i32,
        events: u32,
        data: u64,
    ) -> Outcome {
        let set = self.file(set).ok_or(libc::EBADF)?;
        // A descriptor of the process's own, such as the pipe of its signals, stays silent.
        if fd < FIRST {
            return Ok(0);
        }
        let file = self.file(fd).ok_or(libc::EBADF)?;
        let found = self.files[file].watchers.iter().position(|(it, item)| {
            let Kind::Set(other) = &self.files[*it].kind else { return false };
            *it == set && other.items[*item].fd == fd
        });
        let events = events | HUP | ERR;
        let is_ready = self.readiness(file) & events & EVENTS != 0;
        let Kind::Set(it) = &mut self.files[set].kind else { return Err(libc::EINVAL) };
        match (call, found) {
            (libc::EPOLL_CTL_ADD, None) => {
                let item = it.items.insert(Item { file, fd, events, data, is_queued: is_ready });
                if is_ready {
                    it.ready.push_back(item);
                }
                self.files[file].watchers.push((set, item));
            }
            (libc::EPOLL_CTL_MOD, Some(found)) => {
                let (_, item) = self.files[file].watchers[found];
                let Kind::Set(it) = &mut self.files[set].kind else { return Err(libc::EINVAL) };
                let entry = &mut it.items[item];
                (entry.events, entry.data) = (events, data);
                if is_ready && !entry.is_queued {
                    entry.is_queued = true;
                    it.ready.push_back(item);
                }
            }
            (libc::EPOLL_CTL_DEL, Some(found)) => {
                let (_, item) = self.files[file].watchers.swap_remove(found);
                let Kind::Set(it) = &mut self.files[set].kind else { return Err(libc::EINVAL) };
                it.items.remove(item);
                it.ready.retain(|ready| *ready != item);
                return Ok(0);
            }
            (libc::EPOLL_CTL_ADD, Some(_)) => return Err(libc::EEXIST),
            _ => return Err(libc::ENOENT),
        }
        if is_ready {
            self.stir(set, IN);
        }
        Ok(0)
    }

    /// What `set` has to say now, `room` of it at most.
    pub(crate) fn collect(&mut self, set: i32, room: usize) -> Vec<libc::epoll_event> {
        let Some(set) = self.file(set) else { return Vec::new() };
        let Kind::Set(it) = &mut self.files[set].kind else { return Vec::new() };
        let mut queue = std::mem::take(&mut it.ready);
        let (mut told, mut kept) = (Vec::new(), VecDeque::new());
        while told.len() < room {
            let Some(item) = queue.pop_front() else { break };
            let Kind::Set(it) = &self.files[set].kind else { break };
            let Some(entry) = it.items.get(item) else { continue };
            let events = self.readiness(entry.file) & entry.events & EVENTS;
            let (data, is_edge) = (entry.data, entry.events & EDGE != 0);
            let stays = events != 0 && !is_edge;
            if events != 0 {
                told.push(libc::epoll_event { events, u64: data });
            }
            if stays {
                kept.push_back(item);
            }
            let Kind::Set(it) = &mut self.files[set].kind else { break };
            it.items[item].is_queued = stays;
        }
        queue.append(&mut kept);
        let Kind::Set(it) = &mut self.files[set].kind else { return told };
        queue.append(&mut it.ready);
        it.ready = queue;
        told
    }
}
