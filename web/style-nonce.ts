// Gives style elements that scripts make (Mantine, xterm.js, uPlot's kin) the nonce of this page, without which its content
// security policy lets them do nothing. Loaded before everything else.
import * as z from 'zod';

const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? '';
const create = document.createElement.bind(document);

document.createElement = (name: string, options?: ElementCreationOptions) => {
  const element = create(name, options);
  if (nonce !== '' && name.toLowerCase() === 'style') element.nonce = nonce;
  return element;
};

// The policy lets nothing be compiled from text, which zod would try.
z.config({ jitless: true });
