//! A disk whose operations outlive the worker that began them, as a kernel's do: they end in any order, late, or short, and land
//! whether or not anybody waits for them. Knows nothing of requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use qos::simulate::Random;
use worker::uring::{Completion, Disk, FileIndex, Rw};
use xenbus::memory::LocalMemory;

use super::fuse;

#[derive(Clone, Copy, Debug)]
enum What {
    Move { rw: Rw, local: usize },
    Punch,
    Flush,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    what: What,
    offset: usize,
    len: usize,
    tag: u64,
}

/// What outlives workers: the disk's bytes and what is under way.
#[derive(Debug)]
pub(super) struct Kernel {
    image: Vec<u8>,
    block_len: usize,
    under_way: Vec<(u64, Operation)>,
    /// Buffers of dead workers.
    left: HashMap<u64, LocalMemory>,
    pub(super) random: Random,
    next: u64,
}

impl Kernel {
    pub(super) fn new(len_bytes: usize, block_len: usize, seed: u64) -> Rc<RefCell<Self>> {
        let random = Random(seed);
        let image = vec![0; len_bytes];
        Rc::new(RefCell::new(Self {
            image,
            block_len,
            under_way: Vec::new(),
            left: HashMap::new(),
            random,
            next: 0,
        }))
    }

    /// The fence: nothing of any dead worker's is under way any more.
    pub(super) fn end_all_of_the_dead(&mut self) {
        while self.end_one_of_the_dead() {}
        self.left.clear();
    }

    /// One of a dead worker's operations lands now.
    pub(super) fn end_one_of_the_dead(&mut self) -> bool {
        let dead: Vec<usize> =
            (0..self.under_way.len()).filter(|&i| self.left.contains_key(&self.under_way[i].0)).collect();
        let Some(&at) = dead.get(self.choose(dead.len())) else { return false };
        let (of, operation) = self.under_way.swap_remove(at);
        if let Some(memory) = self.left.remove(&of) {
            self.carry_out(operation, &memory);
            self.left.insert(of, memory);
        }
        true
    }

    fn choose(&mut self, among: usize) -> usize {
        usize::try_from(self.random.below(among as u64)).unwrap_or(0)
    }

    fn carry_out(&mut self, operation: Operation, memory: &LocalMemory) -> i32 {
        let Operation { what, offset, mut len, .. } = operation;
        // Now and then some of its blocks alone are done.
        let blocks = len / self.block_len;
        if matches!(what, What::Move { .. }) && blocks > 1 && self.random.below(8) == 0 {
            len = (1 + self.choose(blocks - 1)) * self.block_len;
        }
        let Some(bytes) = self.image.get_mut(offset..offset + len) else { return -libc::EINVAL };
        let done = match what {
            What::Move { rw: Rw::Read, local } => memory.write(local, bytes),
            What::Move { rw: Rw::Write, local } => memory.read(local, bytes),
            What::Punch => {
                bytes.fill(0);
                len = 0;
                true
            }
            What::Flush => true,
        };
        if done { i32::try_from(len).unwrap_or(-libc::EINVAL) } else { -libc::EFAULT }
    }
}

/// A worker's way to it.
#[derive(Debug)]
pub(super) struct LateDisk {
    kernel: Rc<RefCell<Kernel>>,
    number: u64,
    memory: Option<LocalMemory>,
    pushed: Vec<Operation>,
    ended: Vec<Completion>,
    polls: Vec<u64>,
    in_flight: u32,
}

impl LateDisk {
    pub(super) fn new(kernel: &Rc<RefCell<Kernel>>) -> Self {
        let number = {
            let mut kernel = kernel.borrow_mut();
            kernel.next += 1;
            kernel.next
        };
        Self {
            kernel: Rc::clone(kernel),
            number,
            memory: None,
            pushed: Vec::new(),
            ended: Vec::new(),
            polls: Vec::new(),
            in_flight: 0,
        }
    }

    /// Something will end.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// Something has ended and was not seen.
    pub(super) fn has_news(&self) -> bool {
        self.ended.iter().any(|done| !done.more)
    }

    fn push(&mut self, what: What, offset: u64, len: u64, tag: u64) -> io::Result<()> {
        let within = |n: u64| usize::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
        self.pushed.push(Operation { what, offset: within(offset)?, len: within(len)?, tag });
        self.in_flight += 1;
        if self.pushed.len() >= 8 { self.submit() } else { Ok(()) }
    }

    /// Some of what is under way ends, in any order.
    fn end_some(&mut self) {
        let mut kernel = self.kernel.borrow_mut();
        let (number, Some(memory)) = (self.number, &self.memory) else { return };
        let mine = kernel.under_way.iter().filter(|(of, _)| *of == number).count();
        let ending = if mine == 0 { 0 } else { 1 + kernel.choose(mine.min(12)) };
        for _ in 0..ending {
            let all: Vec<usize> =
                (0..kernel.under_way.len()).filter(|&i| kernel.under_way[i].0 == number).collect();
            let Some(&at) = all.get(kernel.choose(all.len())) else { break };
            let (_, operation) = kernel.under_way.swap_remove(at);
            let result = kernel.carry_out(operation, memory);
            self.ended.push(Completion { tag: operation.tag, result, more: false });
        }
    }
}

impl Disk for LateDisk {
    fn give_memory(&mut self, part: LocalMemory) {
        self.memory = Some(part);
    }

    fn memory(&self) -> Option<&LocalMemory> {
        self.memory.as_ref()
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn transfer(
        &mut self,
        rw: Rw,
        _: FileIndex,
        offset: u64,
        local: usize,
        len: u32,
        tag: u64,
    ) -> io::Result<()> {
        self.push(What::Move { rw, local }, offset, len.into(), tag)
    }

    fn fdatasync(&mut self, _: FileIndex, tag: u64) -> io::Result<()> {
        self.push(What::Flush, 0, 0, tag)
    }

    fn punch_hole(&mut self, _: FileIndex, offset: u64, len: u64, tag: u64) -> io::Result<()> {
        self.push(What::Punch, offset, len, tag)
    }

    fn poll(&mut self, _: FileIndex, tag: u64) -> io::Result<()> {
        self.polls.push(tag);
        Ok(())
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        Ok(!self.ended.is_empty())
    }

    fn submit(&mut self) -> io::Result<()> {
        fuse::burn();
        let pushed = self.pushed.drain(..).map(|operation| (self.number, operation));
        self.kernel.borrow_mut().under_way.extend(pushed);
        fuse::burn();
        Ok(())
    }

    fn wait(&mut self, _: Option<Duration>) -> io::Result<()> {
        self.submit()?;
        self.end_some();
        let late = self.kernel.borrow_mut().random.below(4) == 0;
        if late {
            self.kernel.borrow_mut().end_one_of_the_dead();
        }
        // Whoever looks at a file that is not ready finds nothing there.
        self.ended.extend(self.polls.iter().map(|&tag| Completion { tag, result: 1, more: true }));
        fuse::burn();
        Ok(())
    }

    fn completions(&mut self, out: &mut Vec<Completion>) {
        let room = (out.capacity() - out.len()).min(self.ended.len());
        out.extend(self.ended.drain(..room));
    }

    fn ended(&mut self) {
        self.in_flight -= 1;
    }
}

impl Drop for LateDisk {
    /// What is under way goes on, to and from buffers that nobody else gets.
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.kernel.borrow_mut().left.insert(self.number, memory);
        }
    }
}
