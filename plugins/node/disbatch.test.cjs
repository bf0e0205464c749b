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
    result: (value) => task.result(value),
    error: (code, message, detail, retry) => task.error(message, { code, detail, retry }),
    snooze: (seconds, message) => task.snooze(seconds, message),
    tasks: (tasks) => task.followUp(...tasks),
  };
  for (const [event, ...given] of task.parameters.events || []) say[event](...given);
  if (task.parameters.throw) throw new Error(task.parameters.throw);
  return task.parameters.exit;
}

function vectors(name) {
  const file = path.join(__dirname, '..', '..', 'protocol', 'vectors', name);
  return JSON.parse(fs.readFileSync(file, 'utf8')).cases;
}

function tests(test) {
  const talks = vectors('workers.json').filter((one) => one.helper);
  assert(talks.length >= 5);
  for (const { name, talk } of talks) test(`worker vector: ${name}`, () => converse(talk));

  for (const { name, line } of vectors('stdin.json')) {
    test(`stdin vector: ${name}`, () => {
      const document = JSON.parse(line);
      const task = new disbatch.Task(document, 1);
      assert.deepStrictEqual([task.id, task.queue], [document._id, document.queue]);
      assert.deepStrictEqual(task.parameters, document.parameters || {});
    });
  }
}

async function converse(talk) {
  const plugin = spawn(process.execPath, [__filename], {
    env: { ...process.env, DISBATCH_MODE: 'worker', DISBATCH_EVENT_FD: '3' },
    stdio: ['pipe', 'inherit', 'ignore', 'pipe'],
  });
  const timer = setTimeout(() => plugin.kill('SIGKILL'), 20000);
  const ended = new Promise((resolve) => plugin.on('exit', (code, signal) => resolve(signal || code)));
  const events = readline.createInterface({ input: plugin.stdio[3] })[Symbol.asyncIterator]();
  for (const step of talk) {
    if (step.host_closes_stdin) {
      plugin.stdin.end();
    } else if (step.host) {
      plugin.stdin.write(JSON.stringify(step.host) + '\n');
    } else {
      const { value, done } = await events.next();
      assert(!done, `expected ${JSON.stringify(step.plugin)}, found the end`);
      const event = JSON.parse(value);
      for (const [field, wanted] of Object.entries(step.plugin)) assert.deepStrictEqual(event[field], wanted);
    }
  }
  assert.deepStrictEqual(await events.next(), { value: undefined, done: true });
  assert.strictEqual(await ended, 0);
  clearTimeout(timer);
}
