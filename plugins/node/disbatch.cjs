'use strict';
// Write a Disbatch plugin for Node: one function, called for each task, in oneshot and in worker mode.
//
//     const disbatch = require('./disbatch.cjs');            // or: import disbatch from './disbatch.cjs'
//
//     disbatch.run(async (task) => {
//       task.progress(0.5, 'half of it');
//       console.log(`Hello, ${task.parameters.name}`);
//       task.result({ greeted: task.parameters.name });
//     });
//
// What the function returns is the exit code, 0 to 255 (nothing: 0). An exception is a failure: its type and message
// become the task's error (`TypeError: x is not iterable`), its stack goes to stderr. Any other return value is a failure
// too, as is an event that JSON cannot represent. Printed text becomes the task's output; invalid Unicode in an event becomes U+FFFD.
//
// One file, nothing but Node's own modules, Node 14 and up: copy it beside your program. Run by hand, without a host, the
// plugin reads one line of JSON from stdin and shows its events on stderr.

const crypto = require('crypto');
const fs = require('fs');

const PROTOCOL = 1;
// Marks a text that is a number for JSON; nobody else's text begins so.
const DOUBLE = `double ${crypto.randomBytes(12).toString('hex')} `;

/** Call `work(task)` for the task (oneshot mode) or for each task in turn (worker mode), then end the process. */
async function run(work) {
  const lines = readLines();
  if (process.env.DISBATCH_MODE === 'worker') {
    await lines.next(); // hello
    send({ type: 'ready', protocol: PROTOCOL });
    for await (const line of lines) {
      const message = JSON.parse(line);
      if (message.type !== 'task') continue; // from a later version of the protocol
      const task = new Task(message.task, message.attempt, message.deadline);
      const exit = await perform(work, task);
      await allPrinted();
      send({ type: 'done', exit, task: task.id });
    }
    process.exit(0);
  }
  const { value } = await lines.next();
  const deadline = process.env.DISBATCH_DEADLINE;
  const attempt = Number(process.env.DISBATCH_ATTEMPT || 1);
  const task = new Task(JSON.parse(value || '{}'), attempt, deadline ? Number(deadline) : undefined);
  const exit = await perform(work, task);
  await allPrinted();
  process.exit(exit);
}

/** The current task, with methods for its events. All of them are optional. */
class Task {
  constructor(document, attempt, deadline) {
    this.document = document; // everything from the host; see the plugin protocol
    this.attempt = attempt; // 1 for the first attempt
    this.deadline = deadline; // in Unix seconds, undefined without a time limit
  }

  get id() {
    return this.document._id;
  }

  get queue() {
    return this.document.queue;
  }

  get parameters() {
    return this.document.parameters || {};
  }

  /** Report progress: `value` from 0 to 1, or null; `message` for people. */
  progress(value = null, message) {
    send({ type: 'progress', value, message: text(message) });
  }

  /** Add a line to the task's log. `level`: debug, info, warning or error. */
  log(message, level = 'info', fields) {
    send({ type: 'log', level, message: String(message), fields });
  }

  /** Fail with this status (2 and up), even with exit code 0; 0 takes it back. */
  status(status) {
    send({ type: 'status', status });
  }

  /** Set free fields of the task document. */
  set(fields) {
    send({ type: 'set', fields });
  }

  /** Give the task's result, as JSON of at most 1 MiB; the last one counts. With `status`, fail with it. */
  result(value, status) {
    send({ type: 'result', value: value === undefined ? null : value, status });
  }

  /** Give the reason for a failure. `more`: code, detail, retry (whether another attempt makes sense). */
  error(message, more = {}) {
    const [code, detail] = [text(more.code), text(more.detail)];
    send({ type: 'error', code, message: String(message), detail, retry: more.retry });
  }

  /** With exit code 0: run again in this many seconds, without using an attempt. */
  snooze(seconds, message) {
    send({ type: 'snooze', seconds, message: text(message) });
  }

  /** Create tasks once this one has succeeded: { queue, parameters } each. */
  followUp(...tasks) {
    send({ type: 'tasks', tasks });
  }
}

function text(value) {
  return value === undefined || value === null ? undefined : String(value);
}

function send(event) {
  const line = lineOf(event);
  const descriptor = process.env.DISBATCH_EVENT_FD;
  if (!descriptor) {
    fs.writeSync(2, 'event: ' + line);
    return;
  }
  let rest = Buffer.from(line, 'utf8');
  while (rest.length > 0) {
    try {
      rest = rest.subarray(fs.writeSync(Number(descriptor), rest));
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error; // the pipe is full for a moment
    }
  }
}

// JSON.stringify omits, or turns into null, values that JSON lacks; a lost result must not look like a success.
function lineOf(event) {
  let line;
  try {
    line = JSON.stringify(event, (name, value) => {
      const isLost = typeof value === 'function' || typeof value === 'symbol';
      if (isLost || (typeof value === 'number' && !Number.isFinite(value))) {
        throw new TypeError(`${name ? JSON.stringify(name) + ' is ' : ''}${String(value)}`);
      }
      // From 2^63 on, JSON.stringify would write an integer that a host refuses: numbers are doubles here.
      if (Object.is(value, -0)) return `${DOUBLE}-0.0`; // it would write 0
      return typeof value === 'number' && Math.abs(value) >= 2 ** 63 ? DOUBLE + value.toExponential() : value;
    });
  } catch (error) {
    throw new TypeError(`the ${event.type} event cannot be written as JSON: ${error.message}`);
  }
  if (line.includes(DOUBLE)) line = line.replace(new RegExp(`"${DOUBLE}([^"]*)"`, 'g'), '$1');
  if (line.includes('\\ud')) {
    // Half a surrogate pair is not valid UTF-8. Escapes are matched one by one: "\\ud800" is a backslash and five letters.
    line = line.replace(/\\(?:u[0-9a-f]{4}|.)/g, (escape) => (/^\\ud[89a-f]/.test(escape) ? '\ufffd' : escape));
  }
  return line + '\n';
}

async function perform(work, task) {
  try {
    const exit = (await work(task)) ?? 0;
    if (Number.isInteger(exit) && exit >= 0 && exit <= 255) return exit;
    throw new TypeError(`expected the function to return an exit code from 0 to 255 or nothing, found ${shown(exit)}`);
  } catch (error) {
    console.error(error);
    task.error(inWords(error), { code: 'exception' });
    return 1;
  }
}

// Errors carry the name of their class only where the class sets it; anything else that was thrown is its own text.
function inWords(error) {
  if (!(error instanceof Error)) return String((error && error.message) || error);
  const own = error.constructor && error.constructor.name;
  const name = error.name === 'Error' && own ? own : error.name;
  return error.message ? `${name}: ${error.message}` : String(name);
}

function shown(value) {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

// A pipe takes 64 KiB; Node keeps the rest and writes it later. It must be out before the task is done, or it would be
// lost with the process, or become the output of the next task.
function allPrinted() {
  const written = (stream) =>
    new Promise((resolve) => {
      if (stream.destroyed || stream.writableEnded || !stream.writableLength) resolve();
      else stream.write('', () => resolve()); // also called if nobody reads any more
    });
  return Promise.all([written(process.stdout), written(process.stderr)]);
}

async function* readLines() {
  let blocks = [];
  for await (const block of process.stdin) {
    let start = 0;
    for (let end = block.indexOf(10); end >= 0; end = block.indexOf(10, start)) {
      blocks.push(block.subarray(start, end));
      yield Buffer.concat(blocks).toString('utf8');
      blocks = [];
      start = end + 1;
    }
    blocks.push(block.subarray(start));
  }
  const rest = Buffer.concat(blocks).toString('utf8');
  if (rest) yield rest;
}

module.exports = { run, Task };
