// Prints what cloudfront-log-parser reads in gzipped log files: for each file, an array of objects.
// node log_parser.js FOLDER_OF_PACKAGES FORMAT FILE...
'use strict';

const { createReadStream } = require('node:fs');
const { createRequire } = require('node:module');
const { createGunzip } = require('node:zlib');

const [packages, format, ...files] = process.argv.slice(2);
const Parser = createRequire(`${packages}/`)('cloudfront-log-parser');

async function read(file) {
  const entries = [];
  for await (const entry of createReadStream(file).pipe(createGunzip()).pipe(new Parser({ format }))) {
    entries.push(entry);
  }
  return entries;
}

Promise.all(files.map(read)).then((read) => console.log(JSON.stringify(read)));
