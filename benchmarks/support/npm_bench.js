// One measured operation of npm hyperdrive; the counterpart of hyper_worker.py, with the same arguments and answers.
// The packages are the pinned ones of tests/interop/node.
const fs = require('fs')
const net = require('net')
const path = require('path')
const load = require('module').createRequire(path.join(__dirname, '../../tests/interop/node/'))
const Corestore = load('corestore')
const Hyperdrive = load('hyperdrive')

const now = () => performance.now() / 1000
const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')

// The largest memory of this process so far, in MiB.
function peak () {
  return Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1]) / 1024
}

async function open (folder, key) {
  const drive = new Hyperdrive(new Corestore(folder), key ? Buffer.from(key, 'hex') : null)
  await drive.ready()
  return drive
}

const entryPath = (i) => `/folder ${Math.floor(i / 1000)}/entry ${i % 1000}`

const commands = {
  async 'import-file' (store, file) {
    const drive = await open(store)
    const start = now()
    await new Promise((resolve, reject) => {
      const sink = drive.createWriteStream('/file')
      sink.on('close', resolve).on('error', reject)
      fs.createReadStream(file, { highWaterMark: 1 << 20 }).on('error', reject).pipe(sink)
    })
    return { seconds: now() - start, drive }
  },

  async 'import-folder' (store, folder, how) {
    const drive = await open(store)
    const names = fs.readdirSync(folder)
    const start = now()
    const target = how === 'batch' ? drive.batch() : drive
    for (const name of names) await target.put('/' + name, fs.readFileSync(path.join(folder, name)))
    if (how === 'batch') await target.flush()
    return { seconds: now() - start, drive }
  },

  // Serves until standard input ends.
  async serve (store) {
    const drive = await open(store)
    const server = net.createServer((socket) => replicate(drive, socket, false))
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    say({ port: server.address().port })
    await new Promise((resolve) => process.stdin.on('end', resolve).resume())
    return { drive }
  },

  async fetch (store, key, version, port) {
    const drive = await open(store, key)
    const start = now()
    await connect(drive, port, version)
    const index = drive.core.download({ start: 0, end: drive.version })
    await drive.download('/').done()
    await index.done()
    return { seconds: now() - start, drive }
  },

  // Milliseconds for each range of 1 MiB of a file, nothing of which is here yet.
  async ranges (store, key, version, port, starts) {
    const drive = await open(store, key)
    await connect(drive, port, version)
    await drive.entry('/file')
    const milliseconds = []
    for (const start of starts.split(',').map(Number)) {
      const began = now()
      let size = 0
      for await (const part of drive.createReadStream('/file', { start, end: start + (1 << 20) - 1 })) size += part.length
      if (size !== 1 << 20) throw new Error('short range')
      milliseconds.push(1000 * (now() - began))
    }
    return { milliseconds, drive }
  },

  async 'make-entries' (store, count) {
    const drive = await open(store)
    const start = now()
    await putEntries(drive, Number(count), 1, 'target')
    return { seconds: now() - start, drive }
  },

  // List and look up all that make-entries made; then change one in a hundred and compare.
  async 'use-entries' (store, count) {
    const drive = await open(store)
    const version = drive.version
    let start = now()
    let listed = 0
    for await (const entry of drive.list('/')) listed += entry.key ? 1 : 0
    const list = now() - start
    if (listed !== Number(count)) throw new Error(`listed ${listed}`)

    const lookups = 10000
    start = now()
    for (let i = 0; i < lookups; i++) {
      if (!await drive.entry(entryPath((i * 7919 + 17) % count))) throw new Error('not found')
    }
    const lookup = now() - start

    await putEntries(drive, Number(count), 100, 'changed')
    start = now()
    let differences = 0
    for await (const { left, right } of drive.diff(version, '/')) differences += left && right ? 1 : 0
    const diff = now() - start
    if (differences !== Math.ceil(count / 100)) throw new Error(`${differences} differences`)
    return { list, lookup: lookup / lookups, diff, drive }
  }
}

// Every step-th entry, in batches of 10,000.
async function putEntries (drive, count, step, target) {
  for (let from = 0; from < count; from += 10000 * step) {
    const batch = drive.batch()
    for (let i = from; i < Math.min(from + 10000 * step, count); i += step) await batch.symlink(entryPath(i), target)
    await batch.flush()
  }
}

function replicate (drive, socket, initiator) {
  socket.setNoDelay(true)
  socket.on('error', () => {})
  const stream = drive.corestore.replicate(initiator)
  stream.on('error', () => {})
  stream.pipe(socket).pipe(stream)
}

async function connect (drive, port, version) {
  const socket = net.connect(Number(port), '127.0.0.1')
  await new Promise((resolve, reject) => { socket.once('connect', resolve); socket.once('error', reject) })
  replicate(drive, socket, true)
  while (drive.version < Number(version)) await new Promise((resolve) => drive.core.once('append', resolve))
  await drive.getBlobs()
}

async function main () {
  const [name, ...rest] = process.argv.slice(2)
  const { drive, ...answer } = await commands[name](...rest)
  say({ ...answer, key: drive.key.toString('hex'), version: drive.version, peak: peak() })
  await drive.close()
  process.exit(0)
}

main().catch((error) => { console.error(error); process.exit(1) })
