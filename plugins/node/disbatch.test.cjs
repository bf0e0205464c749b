'use strict';
// The helper library against the project's vectors: node --test plugins/node/

const assert = require('assert');
const { spawn } = require('child_process');
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const disbatch = require('./disbatch.cjs');

if (process.env.DISBATCH_MODE) {
  disbatch.run(conformance); // this file is the plugin as well
} else {
  tests(require('node:test'));
}

/** What protocol/vectors/README.md says of the plugin of the `helper` cases. */
function conformance(task) {
  const say = {
    progress: (value, message) => task.progress(value, message),
    log: (level, message, fields) => task.log(message, level, fields),
    status: (status) => task.status(status),
    set: (fields) => task.set(fields),
    result: (value, status) => task.result(value, status),
    error: (code, message, detail, retry) => task.error(message, { code, detail, retry }),
    snooze: (seconds, message) => task.snooze(seconds, message),
    tasks: (tasks) => task.followUp(...tasks),
  };
  for (const [event, ...given] of task.parameters.events || []) say[event](...given.map(odd));
  const [text, times] = task.parameters.print || ['', 0];
  for (let count = 0; count < times; count++) process.stdout.write(text);
  if (task.parameters.throw) throw new Error(task.parameters.throw);
  return task.parameters.exit;
}

/** The argument, with what JSON cannot say in the place of its names. */
function odd(value) {
  if (value === null || typeof value !== 'object') return value;
  if (value.odd) return { nan: NaN, text: 'caf\udce9' }[value.odd];
  if (Array.isArray(value)) return value.map(odd);
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, odd(one)]));
}

function vectors(name) {
  const file = path.join(__dirname, '..', '..', 'protocol', 'vectors', name);
  return JSON.parse(fs.readFileSync(file, 'utf8')).cases;
}

function tests(test) {
  const talks = vectors('workers.json').filter((one) => one.helper);
  assert(talks.length >= 5);
  for (const one of talks) test(`worker vector: ${one.name}`, () => converse(one));
  test('all that was printed by one task is written before the process ends', printsBeforeItEnds);
  test('values that JSON cannot hold are named', namesWhatJsonCannotHold);
  test('an error says its type', saysTheTypeOfAnError);
  test('large numbers are written as the doubles that they are', writesDoubles);

  for (const { name, line } of vectors('stdin.json')) {
    test(`stdin vector: ${name}`, () => {
      const document = JSON.parse(line);
      const task = new disbatch.Task(document, 1);
      assert.deepStrictEqual([task.id, task.queue], [document._id, document.queue]);
      assert.deepStrictEqual(task.parameters, document.parameters || {});
    });
  }
}

/** Oneshot mode. Incident: of 5 MB there were 64 KiB, because the process ended before its stdout was written. */
async function printsBeforeItEnds() {
  const plugin = spawn(process.execPath, [__filename], {
    env: { ...process.env, DISBATCH_MODE: 'oneshot', DISBATCH_EVENT_FD: '3' },
    stdio: ['pipe', 'pipe', 'inherit', 'ignore'],
  });
  plugin.stdin.end(JSON.stringify({ parameters: { print: ['x', 3000000], exit: 3 } }) + '\n');
  let printed = 0;
  plugin.stdout.on('data', (block) => (printed += block.length));
  assert.deepStrictEqual(await new Promise((resolve) => plugin.on('close', resolve)), 3);
  assert.strictEqual(printed, 3000000);
}

/** JSON.stringify(1e20) is an integer beyond 64 bits, which a host refuses. */
async function writesDoubles() {
  const plugin = spawn(process.execPath, [__filename], {
    env: { ...process.env, DISBATCH_MODE: 'oneshot', DISBATCH_EVENT_FD: '3' },
    stdio: ['pipe', 'ignore', 'inherit', 'pipe'],
  });
  const value = [1e20, { a: -(2 ** 63) }, 2 ** 53, '1e20', 'minus zero', 0];
  // JSON.stringify writes -0 as 0.
  const task = JSON.stringify({ parameters: { events: [['result', value]] } }).replace('"minus zero"', '-0');
  plugin.stdin.end(task + '\n');
  let line = '';
  plugin.stdio[3].on('data', (block) => (line += block));
  assert.strictEqual(await new Promise((resolve) => plugin.on('close', resolve)), 0);
  assert.strictEqual(
    line,
    '{"type":"result","value":[1e+20,{"a":-9.223372036854776e+18},9007199254740992,"1e20",-0.0,0]}\n',
  );
}

function namesWhatJsonCannotHold() {
  const task = new disbatch.Task({}, 1);
  for (const value of [{ a: Infinity }, () => 1, { a: 10n }, Symbol('x')]) {
    assert.throws(() => task.result(value), /^TypeError: the result event cannot be written as JSON: ./);
  }
}

/** Incident: a ReferenceError, a full disk and a missing user were one kind of failure to everybody who counted them. */
async function saysTheTypeOfAnError() {
  const thrown = {
    missing: 'ReferenceError: missing is not defined',
    "fs.readFileSync('/nowhere')": "Error: ENOENT: no such file or directory, open '/nowhere'",
    "throw new QuotaError('all used')": 'QuotaError: all used',
    'throw new TypeError()': 'TypeError',
    "throw 'no luck'": 'no luck',
    'throw undefined': 'undefined',
  };
  for (const [statement, wanted] of Object.entries(thrown)) {
    const program = `class QuotaError extends Error {}; require('./disbatch.cjs').run(() => { ${statement}; })`;
    const plugin = spawn(process.execPath, ['-e', program], {
      cwd: __dirname,
      env: { ...process.env, DISBATCH_MODE: 'oneshot', DISBATCH_EVENT_FD: '3' },
      stdio: ['pipe', 'ignore', 'ignore', 'pipe'],
    });
    plugin.stdin.end('{}\n');
    let said = '';
    plugin.stdio[3].on('data', (block) => (said += block));
    assert.strictEqual(await new Promise((resolve) => plugin.on('close', resolve)), 1);
    assert.strictEqual(JSON.parse(said).message, wanted);
  }
}

async function converse({ talk, printed_bytes: wanted }) {
  const plugin = spawn(process.execPath, [__filename], {
    env: { ...process.env, DISBATCH_MODE: 'worker', DISBATCH_EVENT_FD: '3' },
    stdio: ['pipe', 'pipe', 'ignore', 'pipe'],
  });
  const timer = setTimeout(() => plugin.kill('SIGKILL'), 20000);
  let printed = 0;
  plugin.stdout.on('data', (block) => (printed += block.length));
  const ended = new Promise((resolve) => plugin.on('close', (code, signal) => resolve(signal || code)));
  const events = readline.createInterface({ input: plugin.stdio[3] })[Symbol.asyncIterator]();
  for (const step of talk) {
    if (step.host_closes_stdin) {
      plugin.stdin.end();
    } else if (step.host_kills) {
      plugin.kill('SIGKILL');
    } else if (step.host) {
      plugin.stdin.write(JSON.stringify(step.host) + '\n');
    } else {
      const { value, done } = await events.next();
      assert(!done, `expected ${JSON.stringify(step.plugin)}, found the end`);
      const event = JSON.parse(value);
      for (const [field, wanted] of Object.entries(step.plugin)) {
        if (typeof wanted === 'string' && wanted.startsWith('…')) assert(event[field].endsWith(wanted.slice(1)), value);
        else assert.deepStrictEqual(event[field], wanted);
      }
    }
  }
  assert.deepStrictEqual(await events.next(), { value: undefined, done: true });
  assert.strictEqual(await ended, talk[talk.length - 1].host_kills ? 'SIGKILL' : 0);
  if (wanted !== undefined) assert.strictEqual(printed, wanted);
  clearTimeout(timer);
}
