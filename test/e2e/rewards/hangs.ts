/** Never comes back. */
export default () => {
  for (;;);
};
