//! From TOML to a [`Policy`], with a fault for everything that breaks a rule and the place of each. Knows nothing of how
//! values hang together: that is `check`.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Rule, place};
use super::units;
use super::{
    Accounting, Class, Customer, DEFAULT_MAX_RESERVED_PPM, Device, Domain, Match, Model, Place, Policy, Set,
    check,
};

/// Longest name of a class or a customer.
const NAME_LEN_MAX: usize = 64;

/// Reads a file; all its faults, in the file's order, if it has any.
pub fn parse(text: &str) -> Result<Policy, Vec<Fault>> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or_else(Place::default, |span| place(text, span.start));
        let rule = Rule::Syntax(error.message().to_owned());
        vec![Fault { at, key: "the file".to_owned(), value: String::new(), rule }]
    })?;
    let mut reader = Reader { text, faults: Vec::new() };
    let root = Table { path: String::new(), at: Place { line: 1, column: 1 }, entries: table.get_ref() };
    let policy = reader.policy(&root);
    check::check(&policy, &mut reader.faults);
    if reader.faults.is_empty() {
        return Ok(policy);
    }
    reader.faults.sort();
    reader.faults.dedup();
    Err(reader.faults)
}

type Entries<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

/// A table of the file with the keys that lead to it.
pub(super) struct Table<'a> {
    pub(super) path: String,
    pub(super) at: Place,
    pub(super) entries: &'a Entries<'a>,
}

/// A value of the file.
pub(super) struct Item<'a> {
    pub(super) path: String,
    pub(super) at: Place,
    pub(super) value: &'a Value<'a>,
}

/// Collects faults.
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) faults: Vec<Fault>,
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Reader<'a> {
    /// Notes a fault of a value.
    pub(super) fn fault(&mut self, item: &Item<'_>, rule: Rule) {
        let shown = self.text.get(item.value.span()).unwrap_or_default();
        // Of a table only its key is told.
        let is_header = shown.starts_with('[') && item.value.get_ref().is_table();
        let is_long = shown.len() > 80 || shown.contains('\n');
        let value = if is_header || is_long { String::new() } else { shown.to_owned() };
        self.faults.push(Fault { at: item.at, key: item.path.clone(), value, rule });
    }

    /// The entries of a table in the order of its keys.
    pub(super) fn items(&self, table: &Table<'a>) -> Vec<(String, Item<'a>)> {
        let item = |(key, value): (&'a Spanned<_>, &'a Value<'a>)| {
            let key: &Spanned<std::borrow::Cow<'_, str>> = key;
            let name = key.get_ref().to_string();
            let at = place(self.text, key.span().start);
            (name.clone(), Item { path: below(&table.path, &name), at, value })
        };
        table.entries.iter().map(item).collect()
    }

    /// The item as a table.
    pub(super) fn table(&mut self, item: &Item<'a>) -> Option<Table<'a>> {
        match item.value.get_ref() {
            DeValue::Table(entries) => Some(Table { path: item.path.clone(), at: item.at, entries }),
            _ => {
                self.fault(item, Rule::WrongType("a table"));
                None
            }
        }
    }

    pub(super) fn text(&mut self, item: &Item<'a>) -> Option<&'a str> {
        let text = item.value.get_ref().as_str();
        if text.is_none() {
            self.fault(item, Rule::WrongType("text in quotes"));
        }
        text
    }

    fn flag(&mut self, item: &Item<'a>) -> Option<bool> {
        let flag = item.value.get_ref().as_bool();
        if flag.is_none() {
            self.fault(item, Rule::WrongType("true or false"));
        }
        flag
    }

    pub(super) fn unknown(&mut self, item: &Item<'_>, allowed: &[&str]) {
        self.fault(item, Rule::UnknownKey(allowed.join(", ")));
    }

    /// The outcome of reading a text or number, or its fault.
    pub(super) fn settle<T>(&mut self, item: &Item<'_>, outcome: Result<T, Rule>) -> Option<Set<T>> {
        match outcome {
            Ok(value) => Some(Set { value, at: item.at }),
            Err(rule) => {
                self.fault(item, rule);
                None
            }
        }
    }

    /// A whole number.
    pub(super) fn integer(item: &Item<'_>) -> Option<i64> {
        let number = item.value.get_ref().as_integer()?;
        i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
    }

    /// A number or a text with its unit; `"none"` is `None`.
    pub(super) fn amount(&mut self, item: &Item<'a>, unit: units::Unit) -> Option<Set<Option<u64>>> {
        let outcome = match (item.value.get_ref().as_str(), Self::integer(item)) {
            (Some(text), _) => units::amount(text, unit),
            (None, Some(number)) => units::bare(number, unit).map(Some),
            (None, None) => Err(Rule::WrongType("a whole number, or text with its unit,")),
        };
        self.settle(item, outcome)
    }

    pub(super) fn time(&mut self, item: &Item<'a>) -> Option<Set<u64>> {
        let text = self.text(item)?;
        self.settle(item, units::time_ns(text))
    }

    pub(super) fn percent(&mut self, item: &Item<'a>) -> Option<u32> {
        let text = self.text(item)?;
        self.settle(item, units::percent_ppm(text)).map(|set| set.value)
    }

    pub(super) fn weight(&mut self, item: &Item<'a>) -> Option<Set<u32>> {
        let weight =
            Self::integer(item).and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=65_535).contains(n));
        self.settle(item, weight.ok_or(Rule::Weight))
    }

    fn policy(&mut self, root: &Table<'a>) -> Policy {
        let mut policy = Policy::default();
        let mut version = false;
        for (key, item) in self.items(root) {
            match key.as_str() {
                "version" => {
                    version = true;
                    if Self::integer(&item) != Some(1) {
                        self.fault(&item, Rule::Version);
                    }
                }
                "defaults" => self.defaults(&item, &mut policy),
                "device" => self.each(&item, |reader, name, item| reader.device(name, item, &mut policy)),
                "class" => self.each(&item, |reader, name, item| {
                    if let Some(class) = reader.class(item) {
                        policy.classes.insert(name, class);
                    }
                }),
                "customer" => self.each(&item, |reader, name, item| {
                    if let Some(customer) = reader.customer(item) {
                        policy.customers.insert(name, customer);
                    }
                }),
                "domain" => self.domains(&item, &mut policy),
                _ => self.unknown(&item, &["version", "defaults", "device", "class", "customer", "domain"]),
            }
        }
        if !version {
            let key = "version".to_owned();
            self.faults.push(Fault { at: root.at, key, value: String::new(), rule: Rule::Version });
        }
        policy
    }

    /// Every table of a table of tables.
    fn each(&mut self, item: &Item<'a>, mut read: impl FnMut(&mut Self, String, &Item<'a>)) {
        let Some(table) = self.table(item) else { return };
        for (name, item) in self.items(&table) {
            read(self, name, &item);
        }
    }

    fn name_is_sound(&mut self, item: &Item<'a>) {
        let name = item.path.split_once('.').map_or("", |(_, name)| name);
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(sound) {
            self.fault(item, Rule::Name);
        }
    }

    fn defaults(&mut self, item: &Item<'a>, policy: &mut Policy) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "class" => {
                    let text = self.text(&item).map(str::to_owned);
                    policy.default_class = text.map(|value| Set { value, at: item.at });
                }
                "accounting" => self.accounting(&item, &mut policy.accounting),
                _ => self.unknown(&item, &["class", "accounting"]),
            }
        }
    }

    fn accounting(&mut self, item: &Item<'a>, accounting: &mut Accounting) {
        let Some(table) = self.table(item) else { return };
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "iops_size" => {
                    if let Some(set) = self.amount(&item, units::Unit::DiskBytes) {
                        if set.value.is_some_and(|size| size < 512) {
                            self.fault(&item, Rule::Floor("512"));
                        }
                        accounting.iops_size_bytes = set.value;
                    }
                }
                "count_flush_as_op" => accounting.flush_is_op = self.flag(&item).unwrap_or_default(),
                "window" => self.window(&item, accounting),
                _ => self.unknown(&item, &["iops_size", "count_flush_as_op", "window"]),
            }
        }
    }

    fn window(&mut self, item: &Item<'a>, accounting: &mut Accounting) {
        let Some(set) = self.time(item) else { return };
        match u32::try_from(set.value / 1_000_000_000) {
            Ok(window_s @ 1..=3600) if set.value % 1_000_000_000 == 0 => accounting.window_s = window_s,
            _ => self.fault(item, Rule::Window),
        }
    }

    fn device(&mut self, key: String, item: &Item<'a>, policy: &mut Policy) {
        if key != "auto" && !key.starts_with("/dev/") {
            self.fault(item, Rule::Choice("\"auto\" and paths below /dev"));
        }
        let Some(table) = self.table(item) else { return };
        let max_reserved_ppm = DEFAULT_MAX_RESERVED_PPM;
        let mut device = Device { key, at: item.at, model: Model::Auto, max_reserved_ppm };
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "model" => match self.text(&item) {
                    Some("auto") => device.model = Model::Auto,
                    Some("hdd") => device.model = Model::Hdd,
                    Some("ssd") => device.model = Model::Ssd,
                    Some("ssd-fast") => device.model = Model::FastSsd,
                    Some(_) => self.fault(&item, Rule::Choice("auto, hdd, ssd, ssd-fast")),
                    None => {}
                },
                "max_reserved" => {
                    device.max_reserved_ppm = self.percent(&item).unwrap_or(device.max_reserved_ppm);
                }
                "cost" | "depth" | "max_throughput_loss" => self.fault(&item, Rule::NotEnforced),
                _ => self.unknown(&item, &["model", "max_reserved"]),
            }
        }
        policy.devices.push(device);
    }

    fn class(&mut self, item: &Item<'a>) -> Option<Class> {
        self.name_is_sound(item);
        let table = self.table(item)?;
        let mut class = Class::default();
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "weight" => class.weight = self.weight(&item),
                "disk" => self.disk_limits(&item, &mut class.disk),
                "net" => self.net_limits(&item, &mut class.net),
                "sla" => class.sla = self.sla(&item),
                _ => self.unknown(&item, &["weight", "disk", "net", "sla"]),
            }
        }
        Some(class)
    }

    fn customer(&mut self, item: &Item<'a>) -> Option<Customer> {
        self.name_is_sound(item);
        let table = self.table(item)?;
        let mut customer = Customer::default();
        for (key, item) in self.items(&table) {
            match key.as_str() {
                "weight" => customer.weight = self.weight(&item),
                "disk" => self.disk_limits(&item, &mut customer.disk),
                "domains" => customer.domains = self.globs(&item),
                // Of all interfaces of a customer's domains together there is no account.
                "net" => self.fault(&item, Rule::NotEnforced),
                _ => self.unknown(&item, &["weight", "disk", "domains"]),
            }
        }
        // Who among the domains would get how much of it is not said.
        if let Some(reserve) = customer.disk.reserve_iops {
            let (at, key) = (reserve.at, below(&item.path, "disk.reserve"));
            self.faults.push(Fault { at, key, value: String::new(), rule: Rule::NotEnforced });
        }
        Some(customer)
    }

    fn globs(&mut self, item: &Item<'a>) -> Vec<Set<String>> {
        let Some(array) = item.value.get_ref().as_array() else {
            self.fault(item, Rule::WrongType("a list of names or globs"));
            return Vec::new();
        };
        let mut globs = Vec::new();
        for value in array.iter() {
            let item = self.element(item, value);
            globs.extend(self.text(&item).map(|text| Set { value: text.to_owned(), at: item.at }));
        }
        globs
    }

    /// A value of a list.
    pub(super) fn element(&self, list: &Item<'a>, value: &'a Value<'a>) -> Item<'a> {
        Item { path: list.path.clone(), at: place(self.text, value.span().start), value }
    }

    fn domains(&mut self, item: &Item<'a>, policy: &mut Policy) {
        let Some(array) = item.value.get_ref().as_array() else {
            self.fault(item, Rule::WrongType("[[domain]]"));
            return;
        };
        for value in array.iter() {
            let item = self.element(item, value);
            let domain = self.table(&item).and_then(|table| self.domain(&table, &item));
            policy.domains.extend(domain);
        }
    }

    fn domain(&mut self, table: &Table<'a>, whole: &Item<'a>) -> Option<Domain> {
        let mut who = None;
        let mut domain = Domain {
            who: Match::Name(String::new()),
            at: table.at,
            class: None,
            weight: None,
            disk: super::DiskLimits::default(),
            disks: Vec::new(),
            net: super::NetLimits::default(),
            nets: BTreeMap::new(),
        };
        for (key, item) in self.items(table) {
            match key.as_str() {
                "match" => {
                    who = self.who(&item);
                    domain.at = item.at;
                }
                "class" => domain.class = self.text(&item).map(str::to_owned),
                "weight" => domain.weight = self.weight(&item),
                "disk" => self.domain_disks(&item, &mut domain),
                "net" => self.domain_nets(&item, &mut domain),
                _ => self.unknown(&item, &["match", "class", "weight", "disk", "net"]),
            }
        }
        if !table.entries.keys().any(|key| key.get_ref() == "match") {
            self.fault(whole, Rule::Match);
        }
        domain.who = who?;
        Some(domain)
    }

    fn who(&mut self, item: &Item<'a>) -> Option<Match> {
        let table = self.table(item)?;
        let mut found = Vec::new();
        for (key, item) in self.items(&table) {
            let text = self.text(&item)?.to_owned();
            found.push(match key.as_str() {
                "uuid" if is_uuid(&text) => Match::Uuid(text.to_ascii_lowercase()),
                "uuid" => {
                    self.fault(&item, Rule::Uuid);
                    return None;
                }
                "name" => Match::Name(text),
                "glob" => Match::Glob(text),
                _ => {
                    self.unknown(&item, &["uuid", "name", "glob"]);
                    return None;
                }
            });
        }
        if found.len() != 1 {
            self.fault(item, Rule::Match);
        }
        found.pop()
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(hex)
}
