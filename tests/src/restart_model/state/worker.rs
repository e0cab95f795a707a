//! A worker's steps, and how its successor takes over. Does more than the real one: it may begin with any of what it could do.

use worker::journal::recover;

use super::{At, Cell, SLOTS, State, Variant, Work, Worker};
use crate::restart_model::kept::{Entry, Step};

/// Where steps are collected, with their names.
type Steps = Vec<(&'static str, State)>;

impl State {
    fn store(&mut self, step: Step) -> Result<(), String> {
        self.kept =
            self.kept.after(step).ok_or_else(|| format!("{step:?} must not be made in {:?}", self.kept))?;
        Ok(())
    }

    pub(super) fn taken_over(&self, variant: Variant) -> Result<Self, String> {
        let entries = self.kept.entries.map(Into::into);
        let plan =
            recover::plan(self.kept.positions(), &entries, self.kept.published).map_err(|e| e.to_string())?;
        let mut worker = Worker {
            at: At::Resumes(0),
            req_cons: plan.req_cons,
            rsp_prod: plan.rsp_prod,
            work: [Work::None; SLOTS],
            batch: [None; SLOTS],
            notify: false,
            notify_anyway: variant != Variant::NoNotifyAfterTakeover,
        };
        for &entry in &plan.replay {
            if let Entry::Taken(index) = self.kept.entries[entry] {
                worker.work[entry] = Work::Waits(index);
            }
        }
        for (place, &(entry, _)) in worker.batch.iter_mut().zip(&plan.answer) {
            *place = u8::try_from(entry).ok();
            if let Entry::Staged(index, _) = self.kept.entries[entry] {
                worker.work[entry] = Work::Done(index);
            }
        }
        // A fresh binding is pending at once.
        Ok(Self { worker: Some(worker), to_worker: true, ..*self })
    }

    pub(super) fn worker_steps(
        &self,
        worker: Worker,
        variant: Variant,
        next: &mut Steps,
    ) -> Result<(), String> {
        let mut s = *self;
        let mut w = worker;
        let waiting = self.req_prod - w.req_cons;
        let name = match worker.at {
            At::Turn => return self.turns(worker, waiting, next),
            At::Resumes(_) | At::ResumesNote | At::ResumesIntent => return s.resumes(worker, next),
            At::Copied(..) | At::Kept(..) => return s.takes(worker, variant, next),
            At::Stages(_) | At::Intends | At::Writes => return s.stages(worker, variant, next),
            At::Publishes | At::Checks(_) | At::Notes | At::Frees(_) => {
                return s.publishes(worker, variant, next);
            }
            At::Notifies => {
                s.to_guest |= w.notify || w.notify_anyway;
                (w.notify, w.notify_anyway) = (false, false);
                w.at = At::Turn;
                "it notifies if it is to"
            }
            At::Asks => {
                s.req_event = w.req_cons + 1;
                w.at = At::LooksAgain;
                "it asks for an event"
            }
            At::LooksAgain => {
                w.at = if waiting > 0 && variant != Variant::NoLastLook { At::Turn } else { At::Sleeps };
                "it looks again"
            }
            At::Sleeps => {
                let has_ended = w.work.iter().any(|work| matches!(work, Work::Done(_)));
                if !self.to_worker && !has_ended {
                    return Ok(());
                }
                s.to_worker = false;
                w.at = At::Turn;
                "it wakes"
            }
        };
        s.worker = Some(w);
        next.push((name, s));
        Ok(())
    }

    fn takes(mut self, mut w: Worker, variant: Variant, next: &mut Steps) -> Result<(), String> {
        let name = match w.at {
            At::Copied(entry, index) => {
                if variant == Variant::OwnBeforeKeep {
                    self.kept.req_cons = index + 1;
                } else {
                    self.store(Step::Keep(entry.into(), index))?;
                }
                w.at = At::Kept(entry, index);
                "it keeps a request"
            }
            At::Kept(entry, index) => {
                if variant == Variant::OwnBeforeKeep {
                    self.kept.entries[usize::from(entry)] = Entry::Taken(index);
                } else {
                    self.store(Step::Own)?;
                }
                w.work[usize::from(entry)] = Work::Waits(index);
                w.at = At::Turn;
                "it owes a request"
            }
            _ => return Ok(()),
        };
        self.worker = Some(w);
        next.push((name, self));
        Ok(())
    }

    /// What it may do first in a turn: more than the real one's order has.
    fn turns(&self, worker: Worker, waiting: u32, next: &mut Steps) -> Result<(), String> {
        let free = (0..SLOTS).find(|entry| worker.work[*entry] == Work::None);
        if let Some(entry) = free.filter(|_| waiting > 0) {
            let index = worker.req_cons;
            let cell = self.cells[index as usize % SLOTS];
            if cell != Some(Cell::Request(index)) {
                return Err(format!("request {index} is taken where {cell:?} stands"));
            }
            let at = At::Copied(u8::try_from(entry).unwrap_or(0), index);
            let worker = Worker { at, req_cons: index + 1, ..worker };
            next.push(("it copies a request", Self { worker: Some(worker), ..*self }));
        }
        for entry in 0..SLOTS {
            if let Work::Waits(id) = worker.work[entry] {
                let mut worker = worker;
                worker.work[entry] = Work::WithDisk(id);
                let under_way = self.under_way | 1 << id;
                next.push(("it gives one to the disk", Self { worker: Some(worker), under_way, ..*self }));
            }
        }
        let done = |entry: usize| matches!(worker.work[entry], Work::Done(_));
        let orders: [&[u8]; 4] = [&[0], &[1], &[0, 1], &[1, 0]];
        for order in orders.into_iter().filter(|order| order.iter().all(|entry| done((*entry).into()))) {
            let batch = [order.first().copied(), order.get(1).copied()];
            let worker = Worker { at: At::Stages(0), batch, ..worker };
            next.push(("it begins to answer", Self { worker: Some(worker), ..*self }));
        }
        let is_idle = worker.work.iter().all(|work| matches!(work, Work::None | Work::WithDisk(_)));
        if is_idle && waiting == 0 {
            let worker = Worker { at: At::Asks, ..worker };
            next.push(("it has nothing to do", Self { worker: Some(worker), ..*self }));
        }
        Ok(())
    }

    fn resumes(mut self, mut w: Worker, next: &mut Steps) -> Result<(), String> {
        match w.at {
            At::Resumes(entry) if usize::from(entry) < SLOTS => {
                let i = usize::from(entry);
                if w.work[i] == Work::None && self.kept.entries[i] != Entry::Free {
                    self.store(Step::Free(i))?;
                }
                w.at = At::Resumes(entry + 1);
            }
            At::Resumes(_) => {
                self.store(Step::Note(w.rsp_prod))?;
                w.at = At::ResumesNote;
            }
            At::ResumesNote => {
                self.store(Step::Intend(w.rsp_prod))?;
                w.at = At::ResumesIntent;
            }
            _ => w.at = if w.batch[0].is_some() { At::Stages(0) } else { At::Notifies },
        }
        self.worker = Some(w);
        next.push(("it takes over", self));
        Ok(())
    }

    fn stages(mut self, mut w: Worker, variant: Variant, next: &mut Steps) -> Result<(), String> {
        let count = u32::try_from(w.batch.iter().flatten().count()).unwrap_or(0);
        let end = w.rsp_prod + count;
        let name = match w.at {
            At::Stages(n) if u32::from(n) < count => {
                let entry = w.batch[usize::from(n)].unwrap_or(0);
                self.store(Step::Stage(entry.into(), w.rsp_prod + u32::from(n)))?;
                w.at = At::Stages(n + 1);
                "it stages an answer"
            }
            At::Stages(_) if variant == Variant::FreeBeforePublish => {
                w.batch
                    .iter()
                    .flatten()
                    .for_each(|entry| self.kept.entries[usize::from(*entry)] = Entry::Free);
                w.at = At::Intends;
                "it forgets too early"
            }
            At::Stages(_) | At::Intends => {
                match variant {
                    Variant::PublishBeforeIntent => {}
                    Variant::FreeBeforePublish => self.kept.rsp_intent = end,
                    _ => self.store(Step::Intend(end))?,
                }
                w.at = At::Writes;
                "it intends to publish"
            }
            At::Writes => {
                for (at, entry) in (w.rsp_prod..).zip(w.batch.into_iter().flatten()) {
                    if let Work::Done(id) = w.work[usize::from(entry)] {
                        self.cells[at as usize % SLOTS] = Some(Cell::Answer(id));
                    }
                }
                w.at = At::Publishes;
                "it writes answers"
            }
            _ => return Ok(()),
        };
        self.worker = Some(w);
        next.push((name, self));
        Ok(())
    }

    fn publishes(mut self, mut w: Worker, variant: Variant, next: &mut Steps) -> Result<(), String> {
        let count = u32::try_from(w.batch.iter().flatten().count()).unwrap_or(0);
        let end = w.rsp_prod + count;
        let name = match w.at {
            At::Publishes => {
                for entry in w.batch.into_iter().flatten() {
                    if let Work::Done(id) = w.work[usize::from(entry)]
                        && (self.orphans | self.under_way) >> id & 1 != 0
                    {
                        return Err(format!(
                            "request {id} is answered while an operation of it is under way"
                        ));
                    }
                }
                if variant == Variant::PublishBeforeIntent {
                    self.kept.published = end;
                } else {
                    self.store(Step::Publish(end))?;
                }
                w.at = At::Checks(w.rsp_prod);
                w.rsp_prod = end;
                "it publishes"
            }
            At::Checks(old) => {
                w.notify |= w.rsp_prod.wrapping_sub(self.rsp_event) < w.rsp_prod.wrapping_sub(old);
                w.at = At::Notes;
                "it looks whether to notify"
            }
            At::Notes => {
                self.kept.rsp_intent = self.kept.rsp_intent.max(w.rsp_prod);
                self.store(Step::Note(w.rsp_prod))?;
                w.at = At::Frees(0);
                "it notes that it published"
            }
            At::Frees(n) if u32::from(n) < count => {
                let entry = usize::from(w.batch[usize::from(n)].unwrap_or(0));
                if self.kept.entries[entry] != Entry::Free {
                    self.store(Step::Free(entry))?;
                }
                w.work[entry] = Work::None;
                w.at = At::Frees(n + 1);
                "it forgets an answer"
            }
            _ => {
                w.batch = [None; SLOTS];
                w.at = At::Notifies;
                "it has answered"
            }
        };
        self.worker = Some(w);
        next.push((name, self));
        Ok(())
    }
}
