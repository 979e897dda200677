//! llhttp, Node's parser, as the WebAssembly that undici ships (`llhttp/README.md`).
//!
//! In go bytes of one side of a connection; out come the messages that it saw to their end. It is
//! as strict as it is by default.

use std::cell::RefCell;

use wasmi::{Caller, Engine, Instance, Linker, Memory, Module, Store};

use crate::Asked;

static WASM: &[u8] = include_bytes!("../llhttp/llhttp.wasm");

const REQUEST: i32 = 1;
const RESPONSE: i32 = 2;

/// Longer inputs are not given to it: they would not fit into its memory at once.
pub const BYTES_MAX: usize = 1 << 14;

/// What its callbacks have told.
#[derive(Default)]
struct Told {
    memory: Option<Memory>,
    body: Vec<u8>,
    bodies: Vec<Vec<u8>>,
    /// Of each message whose head was complete, in order.
    heads: Vec<i32>,
}

struct Machine {
    store: Store<Told>,
    instance: Instance,
    memory: Memory,
    input: i32,
}

thread_local!(static MACHINE: RefCell<Machine> = RefCell::new(Machine::new()));

/// The requests in `bytes`.
pub fn requests(bytes: &[u8]) -> Vec<Asked> {
    MACHINE.with_borrow_mut(|machine| {
        machine.run(REQUEST, bytes, false);
        let told = machine.store.data_mut();
        let bodies = std::mem::take(&mut told.bodies);
        let methods: Vec<i32> = told.heads.drain(..).take(bodies.len()).collect();
        let names = methods.into_iter().map(|method| machine.method_name(method));
        names.collect::<Vec<_>>().into_iter().zip(bodies).collect()
    })
}

/// The status and the body of the first message in `bytes`, behind which the connection ends.
pub fn answer(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    MACHINE.with_borrow_mut(|machine| {
        machine.run(RESPONSE, bytes, true);
        let told = machine.store.data_mut();
        let (bodies, heads) = (std::mem::take(&mut told.bodies), std::mem::take(&mut told.heads));
        Some((u16::try_from(*heads.first()?).ok()?, bodies.into_iter().next()?))
    })
}

impl Machine {
    fn new() -> Self {
        let engine = Engine::default();
        let module = Module::new(&engine, WASM).expect("a module");
        let mut store = Store::new(&engine, Told::default());
        let mut linker = Linker::<Told>::new(&engine);
        for name in ["wasm_on_message_begin", "wasm_on_message_complete"] {
            let is_end = name.ends_with("complete");
            let told = move |mut caller: Caller<'_, Told>, _: i32| -> i32 {
                let told = caller.data_mut();
                let body = std::mem::take(&mut told.body);
                if is_end {
                    told.bodies.push(body);
                }
                0
            };
            linker.func_wrap("env", name, told).expect("an import");
        }
        for name in ["url", "status", "header_field", "header_value"] {
            let told = |_: Caller<'_, Told>, _: i32, _: i32, _: i32| -> i32 { 0 };
            linker.func_wrap("env", &format!("wasm_on_{name}"), told).expect("an import");
        }
        let body = |mut caller: Caller<'_, Told>, _: i32, at: i32, length: i32| -> i32 {
            let memory = caller.data().memory.expect("it is set");
            let (bytes, told) = memory.data_and_store_mut(&mut caller);
            told.body.extend_from_slice(&bytes[at as usize..][..length as usize]);
            0
        };
        linker.func_wrap("env", "wasm_on_body", body).expect("an import");
        // The method is read behind this, from the parser: here only a response's status is known.
        let head = |mut caller: Caller<'_, Told>, parser: i32, status: i32, _: i32, _: i32| -> i32 {
            let code = if status > 0 { status } else { method_of(&mut caller, parser) };
            caller.data_mut().heads.push(code);
            0
        };
        linker.func_wrap("env", "wasm_on_headers_complete", head).expect("an import");
        let instance = linker.instantiate_and_start(&mut store, &module).expect("an instance");
        let memory = instance.get_memory(&store, "memory").expect("a memory");
        store.data_mut().memory = Some(memory);
        let mut machine = Self { store, instance, memory, input: 0 };
        let start = machine.instance.get_typed_func::<(), ()>(&machine.store, "_initialize");
        start.and_then(|start| start.call(&mut machine.store, ())).expect("it starts");
        machine.input = machine.call1("malloc", BYTES_MAX as i32);
        machine
    }

    fn call1(&mut self, name: &str, argument: i32) -> i32 {
        let function = self.instance.get_typed_func::<i32, i32>(&self.store, name);
        let function = function.unwrap_or_else(|error| panic!("{name}: {error}"));
        function.call(&mut self.store, argument).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn run(&mut self, kind: i32, bytes: &[u8], is_ended: bool) {
        assert!(bytes.len() <= BYTES_MAX);
        let told = self.store.data_mut();
        told.body.clear();
        told.bodies.clear();
        told.heads.clear();
        let parser = self.call1("llhttp_alloc", kind);
        let at = self.input as usize;
        self.memory.data_mut(&mut self.store)[at..at + bytes.len()].copy_from_slice(bytes);
        let execute = self
            .instance
            .get_typed_func::<(i32, i32, i32), i32>(&self.store, "llhttp_execute")
            .expect("it is there");
        let arguments = (parser, self.input, bytes.len() as i32);
        let error = execute.call(&mut self.store, arguments).expect("it runs");
        if error == 0 && is_ended {
            self.call1("llhttp_finish", parser);
        }
        let free = self.instance.get_typed_func::<i32, ()>(&self.store, "llhttp_free");
        free.and_then(|free| free.call(&mut self.store, parser)).expect("it is freed");
    }

    fn method_name(&mut self, method: i32) -> Vec<u8> {
        let at = self.call1("llhttp_method_name", method) as usize;
        let bytes = &self.memory.data(&self.store)[at..];
        bytes.iter().copied().take_while(|byte| *byte != 0).collect()
    }
}

fn method_of(caller: &mut Caller<'_, Told>, parser: i32) -> i32 {
    let method = caller.get_export("llhttp_get_method").and_then(|it| it.into_func());
    let method = method.expect("it is there").typed::<i32, i32>(&mut *caller).expect("its type");
    method.call(caller, parser).expect("it runs")
}
