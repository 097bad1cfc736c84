// What the npm peers of tests have in common: a corestore, connections over loopback TCP, and commands that
// come over standard input and are answered over standard output, each a line of JSON.
const net = require('net')
const readline = require('readline')
const crypto = require('crypto')
const Corestore = require('corestore')

console.log = console.error // npm hypercore tells of conflicts there, and standard output is for answers

const store = new Corestore(process.argv[2], {
  primaryKey: process.argv[3] ? Buffer.from(process.argv[3], 'hex') : undefined,
  unsafe: true
})
const sockets = new Set()

function replicate (socket, initiator) {
  sockets.add(socket)
  socket.setNoDelay(true)
  socket.on('error', () => {})
  socket.on('close', () => sockets.delete(socket))
  const stream = store.replicate(initiator)
  stream.on('error', (error) => { if (process.env.DEBUG) console.error('stream', error) })
  stream.pipe(socket).pipe(stream)
}

// The same bytes as seeded_block() in tests/interop/npm.py.
function seeded (seed, index, size) {
  const out = Buffer.alloc(size)
  const word = crypto.createHash('sha256').update(`${seed}/${index}`).digest()
  for (let at = 0; at < size; at += 32) word.copy(out, at, 0, Math.min(32, size - at))
  return out
}

const connections = {
  async listen () {
    const server = net.createServer((socket) => replicate(socket, false))
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    return { port: server.address().port }
  },
  async connect ({ port }) {
    const socket = net.connect(port, '127.0.0.1')
    await new Promise((resolve, reject) => { socket.once('connect', resolve); socket.once('error', reject) })
    replicate(socket, true)
    return {}
  },
  async disconnect () {
    for (const socket of sockets) socket.destroy()
    return {}
  }
}

// Runs the commands that come, by the functions of their names, until standard input ends.
function serve (commands) {
  commands = { ...connections, ...commands }
  readline.createInterface({ input: process.stdin }).on('line', async (line) => {
    const command = JSON.parse(line)
    let answer
    try {
      answer = await commands[command.cmd](command)
    } catch (error) {
      answer = { error: error.code || error.message }
      if (process.env.DEBUG) console.error(error)
    }
    process.stdout.write(JSON.stringify({ ...answer, n: command.n }) + '\n')
  }).on('close', () => process.exit(0))
}

module.exports = { store, seeded, serve }
