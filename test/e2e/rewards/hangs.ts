/** Never returns. */
export default () => {
  for (;;);
};
