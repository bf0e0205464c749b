#!/usr/bin/env node
// Shows how a text file is indented and which lines end in blanks.
// Exit 3: the file cannot be read. Exit 4: with "strict", the file is not clean.

import { createReadStream, writeSync } from 'node:fs';
import { stdin } from 'node:process';

const UNREADABLE = 3;
const NOT_CLEAN = 4;
const [TAB, LINE_FEED, CARRIAGE_RETURN, SPACE] = Buffer.from('\t\n\r ');

const { path, strict = false } = JSON.parse(await textOf(stdin)).parameters;

try {
  const found = await examine(createReadStream(path));
  // The exit code is set instead of calling process.exit(), which could cut off pending output.
  process.exitCode = report(found);
} catch (error) {
  if (error.code === undefined) throw error; // a mistake in this program, not a file that cannot be read
  console.error(`indentation: cannot read ${path}: ${error.message}`);
  process.exitCode = UNREADABLE;
}

// Bytes instead of characters, and no line is kept: any encoding, binary files and endless lines take the same memory.
async function examine(chunks) {
  const found = { lines: 0, tabs: 0, spaces: 0, mixed: 0, trailing_blanks: 0, crlf: 0, final_newline: true };
  const steps = new Map(); // by how many spaces a line is deeper than the one before it, and how often
  let [tabs, spaces, inIndent, last, beforeLast, depth] = [0, 0, true, LINE_FEED, LINE_FEED, 0];

  const endOfLine = (end) => {
    found.lines += 1;
    const isBlank = (byte) => byte === TAB || byte === SPACE;
    if (end === LINE_FEED && last === CARRIAGE_RETURN) found.crlf += 1;
    if (isBlank(last === CARRIAGE_RETURN ? beforeLast : last)) found.trailing_blanks += 1;
    [tabs, spaces, inIndent] = [0, 0, true];
  };
  const endOfIndent = () => {
    inIndent = false;
    if (tabs && spaces) found.mixed += 1;
    else if (tabs) found.tabs += 1;
    else if (spaces) found.spaces += 1;
    if (!tabs && spaces > depth) steps.set(spaces - depth, (steps.get(spaces - depth) ?? 0) + 1);
    if (!tabs) depth = spaces;
  };

  for await (const chunk of chunks) {
    for (const byte of chunk) {
      if (byte === LINE_FEED) endOfLine(byte);
      else if (inIndent && byte === TAB) tabs += 1;
      else if (inIndent && byte === SPACE) spaces += 1;
      else if (inIndent && byte !== CARRIAGE_RETURN) endOfIndent();
      [beforeLast, last] = [last, byte];
    }
  }
  if (last !== LINE_FEED) {
    found.final_newline = false;
    endOfLine();
  }
  const [step] = [...steps].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0] ?? [null];
  return { ...found, step };
}

function report(found) {
  const { lines, tabs, spaces, mixed, trailing_blanks, step } = found;
  const by = step === null ? '' : ` (by ${step})`;
  console.log(
    `${path}: ${lines} lines, ${spaces} indented with spaces${by}, ${tabs} with tabs, ${mixed} with both, ` +
      `${trailing_blanks} end in blanks`,
  );
  send({ type: 'result', value: found });

  const faults = [];
  if (mixed || (tabs && spaces)) faults.push('tabs and spaces are mixed');
  if (trailing_blanks) faults.push('lines end in blanks');
  if (found.crlf && found.crlf < lines) faults.push('line ends differ');
  if (!found.final_newline) faults.push('the last line has no end');
  if (!strict || faults.length === 0) return 0;
  console.error(`indentation: ${path} is not clean: ${faults.join(', ')}`);
  return NOT_CLEAN;
}

async function textOf(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

// Sends an event on descriptor 3, but only if the variable is set: without it, Node may use descriptor 3 itself.
function send(event) {
  if (process.env.DISBATCH_EVENT_FD === undefined) return;
  try {
    writeSync(Number(process.env.DISBATCH_EVENT_FD), `${JSON.stringify(event)}\n`);
  } catch {
    // Events are optional: the exit code and the output say enough.
  }
}
