// Uploads a file as an application would: node upload.mjs ENDPOINT FILE OPTIONS (JSON). Prints JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [endpoint, file, given] = process.argv.slice(2);
const tus = createRequire(process.cwd() + "/")("tus-js-client");
const options = JSON.parse(given);
let last = null;
let requests = 0;
const upload = new tus.Upload(readFileSync(file), {
  retryDelays: Array.from({ length: 200 }, () => 20),
  ...options,
  endpoint,
  onAfterResponse: (request, response) => {
    requests += 1;
    last = response;
  },
  onError: (error) => {
    const status = error.originalResponse ? error.originalResponse.getStatus() : null;
    console.log(JSON.stringify({ status, requests, error: String(error).slice(0, 300) }));
    process.exit(1);
  },
  onSuccess: () => {
    console.log(
      JSON.stringify({
        url: upload.url,
        requests,
        recording: last.getHeader("Recording-Id"),
        receipt: last.getHeader("Upload-Receipt"),
      }),
    );
  },
});
upload.start();
